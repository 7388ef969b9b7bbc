"""What the demo command puts together; the traced run itself is tested with the installed wheel."""

import sys
from pathlib import Path

import pytest

from bitnet_trace.commands import demo
from bitnet_trace.demo import decode
from bitnet_trace.errors import TraceError


def test_model_is_made_in_the_cache_of_whoever_calls(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = demo.make_model("tiny", None)
    assert path.parent == tmp_path / "bitnet-trace"
    assert path.read_bytes()[:4] == b"GGUF"


def test_model_that_cannot_be_written_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(TraceError, match=r"cannot be written: /proc/nowhere.*: No such file") as caught:
        demo.make_model("tiny", None)
    assert "\n" not in caught.value.message


def test_decode_command_is_understood_by_the_program(monkeypatch, capsys):
    asked = []
    timings = {"prompt_ms": 1.0, "prompt_n": 32, "predicted_ms": 1.0, "predicted_n": 9}
    monkeypatch.setattr(decode, "generate", lambda *values: asked.append(values) or timings)
    command = demo.decode_command(Path("/x/tiny.gguf"), tokens=9, threads=2)
    assert command[:4] == [sys.executable, "-I", "-m", "bitnet_trace.demo.decode"]
    monkeypatch.setattr(sys, "argv", command[3:])
    decode.main()
    assert asked == [("/x/tiny.gguf", 32, 9, 2, True)]
    assert "eval time" in capsys.readouterr().out


def test_threads_are_the_programs_own_choice_by_default():
    assert not any("threads" in word for word in demo.decode_command(Path("m"), 1, None))


@pytest.mark.parametrize("arguments", [["m", "--tokens", "0"], ["m", "--threads", "0"], []])
def test_decode_refuses_what_makes_no_sense(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["decode", *arguments])
    with pytest.raises(SystemExit) as caught:
        decode.main()
    assert caught.value.code == 2


def test_decode_tells_an_engine_failure_in_a_line(monkeypatch):
    def fail(*_):
        raise RuntimeError("Failed to init server")

    monkeypatch.setattr(decode, "generate", fail)
    monkeypatch.setattr(sys, "argv", ["decode", "m"])
    with pytest.raises(SystemExit, match="Failed to init server"):
        decode.main()
