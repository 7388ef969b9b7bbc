"""The tracer's own memory: what only its beginning needed is given back once the programs are loaded."""

import contextlib
import ctypes
import gc
import os

from bitnet_trace.capture.mappings import mapped_files

# the compiler, and what runs a great deal of code of its own when it is loaded and little later
_LARGE = ("libLLVM", "libclang", "libbcc", "libarrow", "libparquet", "libcrypto")
_MADV_DONTNEED = 4


def trim() -> None:
    """Frees what nobody refers to any more, and the C library's unused heap."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def give_back() -> None:
    """Does that, and frees the pages of large libraries' code: clean ones, mapped again if needed."""
    trim()
    libc = ctypes.CDLL(None)
    for mapped in mapped_files(os.getpid()):
        # code only: what else cannot be written now was, when it was relocated
        if mapped.permissions.startswith("r-x") and os.path.basename(mapped.path).startswith(_LARGE):
            libc.madvise(ctypes.c_void_p(mapped.begin), ctypes.c_size_t(mapped.end - mapped.begin), _MADV_DONTNEED)
