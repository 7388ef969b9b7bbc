"""Ways to get a model file into memory (`ways`), tried in random order (`trials`) and compared (`compare`)."""
