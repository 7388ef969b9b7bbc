"""What the addresses of the samples mean: asked when recording ends, so that a report made elsewhere has names."""

import bisect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.parser import Parser
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.schema import KERNEL_SPACE

_KALLSYMS = Path("/proc/kallsyms")
_CODE = b"tTwW"

Row = dict[str, Any]


def symbol_rows(
    addresses: Mapping[int, set[int]], spaces: AddressSpaces, parser: Parser, patient: bool
) -> Iterator[Row]:
    """A row of schema.SYMBOL_SCHEMA for each address, by process, that is in the kernel or in a mapped file.

    What cannot be read is told in `spaces.warnings`; the file's name stands alone then. `patient`: debug information
    of large files is read too.
    """
    for path, file, parts in spaces.by_file(addresses):
        offsets = [offset for part in parts for offset in part.offsets]
        places: list[Row] = []
        if file is not None:
            try:
                places = parser.symbolize(file, path, offsets, patient)
            except TraceError as error:
                spaces.warnings.append(f"no names of functions: {error.message}")
        owners = ((part.pid, address) for part in parts for address in part.addresses)
        unknown: Row = {"function": None, "inlined": None, "spins": None}
        for number, (pid, address) in enumerate(owners):
            yield {"pid": pid, "address": address, "module": path, **(places[number] if places else unknown)}
    yield from _kernel_rows(addresses)


def _kernel_rows(addresses: Mapping[int, set[int]]) -> Iterator[Row]:
    in_kernel = {
        pid: [address for address in of_process if address >= KERNEL_SPACE] for pid, of_process in addresses.items()
    }
    if not any(in_kernel.values()):
        return
    starts, names = _kernel_functions()
    for pid, of_process in in_kernel.items():
        for address in of_process:
            place = bisect.bisect_right(starts, address) - 1
            name = names[place].decode(errors="replace") if place >= 0 else None
            yield {"pid": pid, "address": address, "module": "[kernel]", "function": name, "spins": False}


def _kernel_functions() -> tuple[list[int], list[bytes]]:
    """Begin addresses, sorted, and names. Of a kernel that hides its addresses: none."""
    try:
        lines = [line.split(None, 3) for line in _KALLSYMS.read_bytes().splitlines()]
    except OSError:
        return [], []
    functions = sorted((int(line[0], 16), line[2]) for line in lines if len(line) >= 3 and line[1] in _CODE)
    if functions and not functions[-1][0]:
        return [], []
    return [start for start, _ in functions], [name for _, name in functions]
