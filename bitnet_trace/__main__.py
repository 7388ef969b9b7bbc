"""`python -m bitnet_trace`."""

from bitnet_trace.entry import main

main()
