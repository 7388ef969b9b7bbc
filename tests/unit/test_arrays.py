"""Arrays put together from buffers equal those that Arrow makes itself."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_trace.recording.arrays import from_numpy, from_values

_TYPES = {
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(),
}


@pytest.mark.parametrize("kind", _TYPES, ids=str)
@given(data=st.data())
def test_values_with_nulls(kind: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | _TYPES[kind]))
    made = from_values(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))


def test_numpy_columns_of_a_structured_array() -> None:
    records = np.zeros(1009, [("a", "<u2"), ("b", "<u8")])
    records["b"] = np.arange(1009)
    assert from_numpy(records["b"]).to_pylist() == list(range(1009))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        from_values([-1], pa.uint32())


def test_no_pandas_is_imported() -> None:
    code = (
        "import sys, pyarrow as pa\n"
        "from bitnet_trace.recording.arrays import from_values\n"
        "import bitnet_trace.recording.writer\n"
        "pa.RecordBatch.from_arrays([from_values(['x', None], pa.string())], ['a']).serialize()\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
