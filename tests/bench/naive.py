"""What the same functions cost when they are counted without windows: always on, at the function's first instruction."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitnet_trace.capture import syscalls
from bitnet_trace.engines.elf import Elf
from tests.bench.overhead import decode_rate

FUNCTIONS = ("ggml_barrier", "ggml_vec_dot_tq2_0_q8_K")


def engine_library() -> Path:
    """The demo engine's shared object."""
    import xllamacpp

    return next(Path(xllamacpp.__file__).parent.glob("*.so"))


@contextmanager
def always_on(library: Path, function: str) -> Iterator[None]:
    """An empty BPF program at the function's entry, in every process: the least that counting it can cost."""
    with library.open("rb") as file:
        elf = Elf(file, str(library))
        entry = next(one.address for one in elf.functions_containing([function.encode()]) if one.name == function)
        offset = elf.file_offset(entry)
    program = syscalls.load_multi_uprobe_program(syscalls.RETURN_ZERO, "naive")
    link = syscalls.link_multi_uprobe(program, str(library), [offset], [0])
    try:
        yield
    finally:
        os.close(link)
        os.close(program)


@contextmanager
def bpftrace(library: Path, function: str) -> Iterator[None]:
    """What people type: `bpftrace -e 'uprobe:FILE:FUNCTION { @ = count(); }'`."""
    command = ["bpftrace", "-e", f"uprobe:{library}:{function} {{ @ = count(); }}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as counter:
        assert counter.stdout is not None
        counter.stdout.readline()  # "Attaching 1 probe..."
        time.sleep(1)
        try:
            yield
        finally:
            counter.terminate()


def measure(command: list[str], rounds: int) -> Iterator[str]:
    """A line for each function and way: how many times as long a token takes, the median of so many pairs."""
    library = engine_library()
    ways = {"always on, at the entry": always_on}
    if shutil.which("bpftrace"):
        ways["bpftrace count"] = bpftrace
    for function in FUNCTIONS:
        for name, way in ways.items():
            ratios = []
            for _ in range(rounds):
                alone = decode_rate(command)
                with way(library, function):
                    ratios.append(alone / decode_rate(command))
            yield f"{function:26}{name:26}{statistics.median(ratios):8.2f} times"
