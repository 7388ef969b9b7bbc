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

    Raises OverflowError or TypeError for what does not fit the type.
    """
    present = np.array([value is not None for value in values], bool)
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int32)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_boolean(kind):
        bits = np.array([bool(value) for value in values], bool)
        buffers = [validity, pa.py_buffer(np.packbits(bits, bitorder="little"))]
    else:
        numbers = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
        buffers = [validity, pa.py_buffer(numbers)]
    return pa.Array.from_buffers(kind, len(values), buffers)
