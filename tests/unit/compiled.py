"""Compiles the C and C++ programs of tests/programs and asks binutils what is in them."""

import re
import subprocess
from pathlib import Path

PROGRAMS = Path(__file__).parent.parent / "programs"


def compiled(folder: Path, source: str, *flags: str, strip: bool = False) -> Path:
    """tests/programs/SOURCE, compiled with the flags (-O2 and warnings as errors besides), optionally stripped."""
    program = folder / Path(source).stem
    compiler = "g++" if source.endswith(".cpp") else "gcc"
    command = [compiler, "-O2", "-Wall", "-Werror", *flags, str(PROGRAMS / source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    if strip:
        subprocess.run(["strip", str(program)], check=True)
    return program


def returns_by_objdump(program: Path, function: str) -> set[int]:
    """Addresses of the `ret` instructions of a function, `.cold` part not included."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(program)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        int(match[1], 16) for match in re.finditer(r"^\s*([0-9a-f]+):\s+(?:bnd |repz )?ret\b", listing, re.MULTILINE)
    }


def instruction_addresses(program: Path) -> set[int]:
    """Where instructions of the program begin."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(program)], check=True, capture_output=True, text=True
    ).stdout
    return {int(match[1], 16) for match in re.finditer(r"^\s*([0-9a-f]+):\t", listing, re.MULTILINE)}


def addresses_by_nm(program: Path, *options: str) -> dict[str, int]:
    """Name to address of the defined symbols; C++ names demangled with `-C` among the options."""
    listing = subprocess.run(["nm", *options, str(program)], check=True, capture_output=True, text=True).stdout
    found = re.finditer(r"^([0-9a-f]{16}) [TtWw] (.+)$", listing, re.MULTILINE)
    return {match[2]: int(match[1], 16) for match in found}
