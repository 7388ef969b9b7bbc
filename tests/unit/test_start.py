"""What can be wrong before a run begins."""

import sys

import pytest

from bitnet_trace.capture.compiler import import_bcc
from bitnet_trace.capture.identity import find_program
from bitnet_trace.errors import TraceError


@pytest.mark.parametrize(
    ("name", "told"),
    [("", "is empty"), ("no-such-program", "no-such-program in PATH"), ("/usr", "is a directory")],
)
def test_a_program_that_is_none(name, told):
    with pytest.raises(TraceError, match=told):
        find_program(name, {"PATH": "/usr/bin"})


def test_a_file_that_may_not_be_run(tmp_path):
    (tmp_path / "text").write_text("no program")
    with pytest.raises(TraceError, match="is not executable"):
        find_program(str(tmp_path / "text"), {})


def test_bcc_whose_libraries_find_no_memory(monkeypatch):
    class Finder:
        def find_spec(self, name, *_):
            if name == "bcc":
                raise OSError("libclang.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()])
    with pytest.raises(TraceError, match="cannot be loaded") as told:
        import_bcc()
    assert "ulimit -v" in told.value.hint
