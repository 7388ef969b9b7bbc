"""What the addresses of stacks mean, as far as it is known."""

from types import SimpleNamespace

import pandas as pd
import pytest

from bitnet_trace.analysis import profile
from bitnet_trace.analysis.profile import frames_of
from bitnet_trace.recording.schema import SYMBOL_SCHEMA


def frames(*symbols):
    """Of one stack with a frame for each of the symbols: (module, function)."""
    rows = [
        {"pid": 7, "address": 100 + n, "module": module, "function": function, "inlined": None, "spins": None}
        for n, (module, function) in enumerate(symbols)
    ]
    known = pd.DataFrame(rows, columns=SYMBOL_SCHEMA.names).astype(
        {"module": "str", "function": "str", "inlined": "str"}
    )
    stacks = pd.DataFrame([{"stack": 0, "pid": 7, "level": n, "address": 100 + n} for n in range(len(symbols))])
    return frames_of(SimpleNamespace(stacks=stacks, symbols=known))


@pytest.mark.parametrize(
    ("symbols", "functions"),
    [
        ([("/usr/lib/libggml.so", "ggml_barrier"), (None, None)], ["ggml_barrier", None]),
        ([(None, None), (None, None)], [None, None]),
        ([("[vdso]", None), ("/usr/lib/libggml.so", None)], ["[vdso]", "[libggml.so]"]),
    ],
)
def test_code_without_a_name_or_without_a_file(symbols, functions):
    found = frames(*symbols)["function"]
    assert [None if pd.isna(name) else name for name in found] == functions


def test_of_as_many_samples_those_of_tokens_come_first():
    """A short run has few: the kernel must not stand behind what starting up needed."""
    rows = [("page fault", "init")] * 3 + [("hot kernel", "decode")] * 3 + [("spin", "decode")] * 9
    table = pd.DataFrame([{"role": role, "phase": phase, "function": "f"} for role, phase in rows])
    assert list(profile._roles(table)["role"]) == ["hot kernel", "page fault", "spin"]
    assert profile._roles(table[table["phase"] == "init"]).to_dict("records") == [
        {"role": "page fault", "samples": 3, "self_pct": 100.0, "phase_shares": {"init": 100.0}, "mostly": "f"}
    ]
