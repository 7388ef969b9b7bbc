"""Package data: BPF programs, probe files and report templates."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _data_dir(name: str) -> Path:
    """The folder as the wheel ships it, else the one at the top of a checkout."""
    shipped = _PACKAGE / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def bpf_dir() -> Path:
    return _data_dir("bpf")


def probes_dir() -> Path:
    return _data_dir("probes")


def reports_dir() -> Path:
    return _data_dir("reports")
