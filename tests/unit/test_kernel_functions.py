"""The kernel's symbol table, as /proc/kallsyms has it."""

import pytest

from bitnet_trace.capture import symbols

TABLE = b"""\
ffffffff81000100 T second
ffffffff81000000 T first
ffffffff81000180 D data
ffffffffc005facc t of_a_module\t[module]
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "kallsyms"
    monkeypatch.setattr(symbols, "_KALLSYMS", path)
    return path


def names(*addresses):
    table = symbols._KernelFunctions()
    return [table.at(address) for address in addresses]


def test_names(table):
    table.write_bytes(TABLE)
    found = names(0xFFFFFFFF80FFFFFF, 0xFFFFFFFF81000000, 0xFFFFFFFF810000FF, 0xFFFFFFFF81000190, 0xFFFFFFFFC005FFFF)
    assert found == [None, "first", "first", "second", "of_a_module"]


@pytest.mark.parametrize("text", [None, b"", b"0000000000000000 T first\n0000000000000000 T second\n"])
def test_a_kernel_that_hides_them(table, text):
    if text is not None:
        table.write_bytes(text)
    assert names(0xFFFFFFFF81000000) == [None]
