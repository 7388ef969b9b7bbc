"""bitnet-trace: CPU LLM inference, traced from the kernel's side."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report

__version__ = "0.1.0"


def open(path: "str | os.PathLike[str]") -> "Report":  # noqa: A001 - bitnet_trace.open, as gzip.open
    """The recording at `path` as pandas DataFrames: `.by_phase`, `.by_thread`, `.tokens`, `.phases`, `.total`.

    `.recording` has what was recorded: `.events` (numpy), `.threads`, `.maps`, `.meta`. Times are ns, sizes bytes, a
    missing value is pd.NA. Raises TraceError where there is no readable recording.

    >>> report = bitnet_trace.open("llama-cli.btrace")
    >>> report.by_phase.set_index("phase")["faults_major"]
    """
    # pandas and pyarrow take half a second to import, which `bitnet-trace --help` must not cost.
    from bitnet_trace.analysis.report import build_report
    from bitnet_trace.recording.reader import open_recording

    return build_report(open_recording(path))


def run(
    command: Sequence[str] | None = None,
    *,
    engine: str = "llama-cli",
    model: str | None = None,
    prompt: str | None = None,
    threads: int | None = None,
    tokens: int | None = None,
    arguments: Sequence[str] = (),
    **options: Any,
) -> "Report":
    """Runs a command under the tracer (needs root) and returns what `open` returns of its recording.

    Without a `command` it is made of the rest, as llama.cpp and its forks have their options: -m, -p, -t, -n, then
    `arguments`. `options` are those of capture.options.Options: `output` (a path; default: NAME-DATE-TIME.btrace here),
    `detail`, `environment`, ... Raises TraceError where it cannot be traced, and where the command fails.

    >>> report = bitnet_trace.run(engine="./llama-cli", model="model.gguf", prompt="hello", threads=2, tokens=32)
    >>> report.summary["decode_tokens_per_s"]
    """
    from bitnet_trace import driver
    from bitnet_trace.capture.options import Options

    words = list(command or driver.command_line(engine, model, prompt, threads, tokens, arguments))
    return open(driver.run(words, Options(**options)))
