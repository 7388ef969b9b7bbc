"""Events by kind, as records and field by field."""

import numpy as np
import pytest

from bitnet_trace.analysis.by_kind import ByKind
from bitnet_trace.recording.layout import EVENT_DTYPE


@pytest.fixture(scope="module")
def events():
    random = np.random.default_rng(11)
    made = np.zeros(1009, EVENT_DTYPE)
    for field in EVENT_DTYPE.names:
        made[field] = random.integers(0, 7 if field == "kind" else 1000, len(made))
    return made


@pytest.mark.parametrize(
    "of", [lambda events: events, lambda events: {name: events[name] for name in EVENT_DTYPE.names}]
)
def test_records_and_columns_are_those_of_the_kind_in_their_order(events, of):
    found = ByKind(of(events))
    for kind in range(8):
        truth = events[events["kind"] == kind]
        assert found.of(kind).tolist() == truth.tolist()
        columns = found.columns_of(kind)
        odd = truth["arg0"] % 2 == 1
        assert len(columns) == len(truth)
        assert len(columns.compress(odd)) == np.count_nonzero(odd)
        for field in EVENT_DTYPE.names:
            assert columns[field].tolist() == truth[field].tolist()
            assert columns[field].flags.c_contiguous
            assert columns.compress(odd)[field].tolist() == truth[odd][field].tolist()
