"""Which function multiplies tensors of which type, and how often it is called for that: [[kernel]] of probes/*.toml."""

import functools

from bitnet_trace.engines.probes import Kernel, load_probe_sets


@functools.cache
def known_kernels() -> tuple[Kernel, ...]:
    """All of them. Raises TraceError where a file of probes/ is wrong."""
    return tuple(kernel for one in load_probe_sets() for kernel in one.kernels)
