"""bitnet-trace: CPU LLM inference, traced from the kernel's side."""

import os
from typing import TYPE_CHECKING

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
