"""BCC: the texts of bpf/ with what this kernel has where, compiled. Only here and in capture/bpf.py is it used."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitnet_trace.capture import btf, syscalls, tracepoints
from bitnet_trace.capture.sizes import Maps, Rings
from bitnet_trace.errors import TraceError
from bitnet_trace.resources import bpf_dir

# compiled as one text, in this order: each file uses what stands before it
_SOURCES = (
    *(
        "state",
        "thread",
        "counter",
        "wake",
        "phase",
        "barrier",
        "kernel",
        "operation",
        "profile",
        "fault",
        "asked",
        "task",
        "sched",
        "futex",
        "file",
        "io",
        "memory",
        "ptrace",
        "syscall",
    ),
    *("tlb", "io_uring", "thp", "cache"),
)


@dataclass(frozen=True)
class Kernel:
    """What the programs have to know of this kernel: `constants` for their text; `attach`: the programs of those
    tracepoints that it has with the fields that are needed, by tracepoint; `missing`: why it has not the others."""

    btf: btf.Btf
    constants: Mapping[str, int]
    attach: Mapping[str, str]
    missing: Mapping[str, str]
    io_uring_opcodes: list[str]


def kernel(counting: bool) -> Kernel:
    """Of the kernel that runs. Raises TraceError when it does not tell what is needed."""
    known = btf.load_vmlinux()
    opcodes = tracepoints.io_uring_opcodes(known.enumerators("io_uring_op"))
    constants = {**btf.kernel_constants(known), **tracepoints.sched_switch(known.parameters)}
    attach: dict[str, str] = {}
    missing: dict[str, str] = {}
    for layout in (
        tracepoints.io_uring(known.parameters, known.offset, opcodes),
        tracepoints.tlb_flush(known.parameters, known.enumerators("tlb_flush_reason"), _format_of("tlb/tlb_flush")),
        tracepoints.huge_pages(known.parameters, known.offset),
        tracepoints.page_cache(known.parameters, known.offset, known.enumerators("pageflags"), counting),
    ):
        constants.update(layout.constants)
        attach.update(layout.attach)
        missing.update(layout.missing)
    return Kernel(known, constants, attach, missing, opcodes)


def flags(constants: Mapping[str, int], rings: Rings, maps: Maps, defined: Iterable[str]) -> list[str]:
    """The compiler's; `defined`: names that choose what is compiled."""
    pages = {f"{name.upper()}_PAGES": size >> 12 for name, size in asdict(rings).items()}
    entries = {f"{name.upper()}_ENTRIES": value for name, value in asdict(maps).items()}
    values = [f"-D{name}={value}" for name, value in {**constants, **pages, **entries}.items()]
    # no debug information and a short optimisation: a quarter of the time to compile, for the same instructions
    return [*values, *(f"-D{name}" for name in defined), f"-I{bpf_dir()}", "-Wno-unused-function", "-g0", "-O1"]


def compiled(bcc: Any, flags: list[str], extra: Path | None) -> Any:
    """A bcc.BPF of all programs; `extra`: a source that stands behind ours. Within explained()."""
    with syscalls.without_kernel_addresses():
        return bcc.BPF(text=_source_text(bpf_dir(), extra), cflags=flags)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """For all that is compiled and loaded: whatever goes wrong is one TraceError."""
    log: list[str] = []
    try:
        with _working_directory(bpf_dir()), _captured_stderr() as log:
            yield
    except Exception as error:  # BCC raises bare Exception
        detail = next((line for line in log if "error" in line.lower()), str(error))
        # the text: BCC's exceptions have no number
        hint = "ulimit -n 4096" if os.strerror(errno.EMFILE) in detail else "bitnet-trace doctor"
        raise TraceError(f"the BPF programs cannot be loaded: {detail}", hint) from error


def _format_of(tracepoint: str) -> str | None:
    """The text of a tracepoint's format in tracefs; None where that cannot be read."""
    try:
        return Path("/sys/kernel/tracing/events", tracepoint, "format").read_text()
    except OSError:
        return None


def _source_text(folder: Path, extra: Path | None) -> str:
    paths = [folder / f"{name}.bpf.c" for name in _SOURCES] + ([extra] if extra else [])
    return "\n".join(f'#line 1 "{path}"\n{path.read_text()}' for path in paths)


def import_bcc() -> Any:
    """The module `bcc`. Raises TraceError."""
    # BCC looks for kernel headers here; ours are all that the programs need
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_dir() / "include")
    try:
        import bcc
    except ImportError as error:
        raise TraceError(
            f"BCC cannot be imported ({error})", "apt-get install python3-bpfcc, and see bitnet-trace doctor"
        ) from None
    except OSError as error:  # of the libraries that it loads
        raise TraceError(f"BCC cannot be loaded ({error})", "it needs 500 MiB of address space: ulimit -v") from None
    if not hasattr(bcc, "BPF"):
        raise TraceError("the Python package 'bcc' here is not the BPF compiler collection", "pip uninstall bcc")
    return bcc


@contextlib.contextmanager
def _working_directory(folder: Path) -> Iterator[None]:
    """BCC searches the current directory for headers first: it has to be ours, not where the user happens to be."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """The compiler writes to descriptor 2; its words belong into our one error, not on the user's screen."""
    lines: list[str] = []
    with open(os.memfd_create("bpf-log"), "w+b") as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            lines.extend(log.read().decode(errors="replace").splitlines())
