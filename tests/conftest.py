"""What all tests share: `requires_bpf`, and skips that become failures where nothing may be skipped."""

import os
from collections import Counter

import pytest

REQUIRE_BPF = os.environ.get("BITNET_TRACE_REQUIRE_BPF") == "1"


def bpf_missing() -> str | None:
    """Why BPF cannot be used here; None when it can."""
    from bitnet_trace import host, kernel_features

    if os.geteuid() != 0:
        return "not root"
    bcc = host.find_bcc()
    if bcc is None or not bcc.genuine:
        return "no BCC in this Python: apt-get install python3-bpfcc, make clean setup"
    return kernel_features.ring_buffer() or kernel_features.raw_tracepoint()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below tests/bpf needs BPF, marked or not."""
    for item in items:
        if "bpf" in item.path.relative_to(item.config.rootpath).parts[:-1]:
            item.add_marker(pytest.mark.requires_bpf)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("requires_bpf"):
        reason = _bpf_missing_once()
        if reason and REQUIRE_BPF:
            pytest.fail(f"BITNET_TRACE_REQUIRE_BPF=1, but {reason}", pytrace=False)
        if reason:
            pytest.skip(f"BPF cannot be used: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """-q hides why tests were skipped; a skip that no one sees is a hole."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} × {reason}", yellow=True)


_checked: list[str | None] = []


def _bpf_missing_once() -> str | None:
    if not _checked:
        _checked.append(bpf_missing())
    return _checked[0]
