"""`python -m bitnet_trace`."""

from bitnet_trace.cli import main

main()
