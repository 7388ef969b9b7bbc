"""`make bench`: what the tool costs on this machine. Needs root, and a machine that does nothing else."""
