"""What the addresses of the samples mean: asked when recording ends, so that a report made elsewhere has names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_trace.capture.address_spaces import AddressSpaces
from bitnet_trace.capture.parser import Parser
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.schema import KERNEL_SPACE

_KALLSYMS = Path("/proc/kallsyms")
_CODE = b"tTwW"
_DIGITS, _NAME_AT = 16, 19  # of a line: the address, a blank, the type, a blank, the name
_NEWLINE, _DIGIT_0, _LETTER_A = b"\n0a"

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
    functions = _KernelFunctions()
    for pid, of_process in in_kernel.items():
        for address in of_process:
            name = functions.at(address)
            yield {"pid": pid, "address": address, "module": "[kernel]", "function": name, "spins": False}


class _KernelFunctions:
    """The kernel's symbol table: 10 MB of text, of which no more is taken apart than the addresses. Empty where the
    kernel hides them."""

    def __init__(self) -> None:
        try:
            self._text = _KALLSYMS.read_bytes()
        except OSError:
            self._text = b""
        data = np.frombuffer(self._text, np.uint8)
        begins = (
            np.append(-1, np.flatnonzero(data[:-1] == _NEWLINE)) + 1 if len(data) > _NAME_AT else np.empty(0, np.intp)
        )
        code = begins[np.isin(data[begins + _NAME_AT - 2], list(_CODE))]
        digits = data[code[:, None] + np.arange(_DIGITS)]  # `ffffffff81000000 T _stext`
        values = np.where(digits >= _LETTER_A, digits - _LETTER_A + 10, digits - _DIGIT_0).astype(np.uint64)
        starts = (values << (4 * np.arange(_DIGITS)[::-1]).astype(np.uint64)).sum(axis=1, dtype=np.uint64)
        order = np.argsort(starts, kind="stable")
        self._starts, self._lines = starts[order], code[order]
        if len(starts) and not self._starts[-1]:
            self._starts = self._starts[:0]

    def at(self, address: int) -> str | None:
        """The function with that address in it, or before it; None: there is none."""
        place = int(np.searchsorted(self._starts, np.uint64(address), side="right")) - 1
        if place < 0:
            return None
        line = int(self._lines[place])
        return self._text[line + _NAME_AT : self._text.find(b"\n", line)].split()[0].decode(errors="replace")
