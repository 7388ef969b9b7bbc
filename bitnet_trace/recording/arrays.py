"""Arrow arrays from plain values, put together from their buffers.

`pyarrow.array()` does the same, but imports pandas when it is first called: 0.4 s of a CPU that the traced program
waits for or competes with. The layout of the buffers: the Arrow columnar format.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def from_numpy(values: npt.NDArray[Any]) -> pa.Array:
    """A one-dimensional array of numbers, without nulls, as an Arrow array of the same type."""
    contiguous = np.ascontiguousarray(values)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(contiguous.dtype), len(contiguous), [None, pa.py_buffer(contiguous)]
    )


def from_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Numbers, booleans or strings, with None for null, as an Arrow array of that type.

    File names and comms are bytes to the kernel: what is no UTF-8 is shown as \\xNN. Raises OverflowError or TypeError
    for what does not fit the type.
    """
    if None in values:
        present = np.array([value is not None for value in values], bool)
        validity = pa.py_buffer(np.packbits(present, bitorder="little"))
        nothing: Any = "" if pa.types.is_string(kind) else 0
        values = [nothing if value is None else value for value in values]
    else:
        validity = None
    if pa.types.is_string(kind):
        encoded = [_text(value) for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int32)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_boolean(kind):
        buffers = [validity, pa.py_buffer(np.packbits(np.array(values, bool), bitorder="little"))]
    else:
        buffers = [validity, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return data if value.isascii() else data.decode("utf-8", "backslashreplace").encode()
