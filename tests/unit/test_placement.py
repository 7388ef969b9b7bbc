"""Where a probe is placed: cheap, once per call, never inside an instruction."""

import subprocess
from pathlib import Path

import pytest

from bitnet_trace.engines.copies import copies_of
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.placement import Placement, cheapest, cheapest_in_copy
from tests.unit.compiled import PROGRAMS, instruction_addresses


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("placement") / "entries.so"
    subprocess.run(["gcc", "-shared", "-nostdlib", str(PROGRAMS / "entries.S"), "-o", str(path)], check=True)
    return path


def placed(path: Path, name: str, **options) -> Placement | str:
    with open(path, "rb") as file:
        elf = Elf(file, str(path))
        (function,) = {one for one in elf.functions_containing([name.encode()]) if one.name == name}
        found = cheapest(elf, function, **options)
    if isinstance(found, Placement):
        assert found.address in instruction_addresses(path)
        assert function.address <= found.address < function.address + function.size
    return found


@pytest.mark.parametrize(
    ("name", "instruction", "cost", "pushed"),
    [
        ("nop_after_push", "nop", "nop", 8),
        ("jump_after_test", "jle", "emulated", 0),
        ("loop_after_mov", "mov", "single-step", 0),
        ("argument_lost", "call", "emulated", 8),
        ("locked", "push", "emulated", 0),
        ("only_locked", "ret", "single-step", 0),
        ("table_behind_entry", "mov", "single-step", 0),
        ("marked", "push", "emulated", 0),
        ("early_return", "jne", "emulated", 0),
        ("jump_before_frame", "mov", "single-step", 0),
    ],
)
def test_the_cheapest_that_runs_once(entries, name, instruction, cost, pushed):
    found = placed(entries, name)
    assert isinstance(found, Placement), found
    assert (found.instruction.split()[0], found.cost_class, found.sp_offset) == (instruction, cost, pushed)


def test_what_cannot_be_placed_is_said(entries):
    assert placed(entries, "loop_at_entry") == "a loop begins at its first instruction"


def test_registers_that_still_hold_arguments(entries):
    assert placed(entries, "argument_lost", registers=["rdi", "rsi"]).intact == {"rsi"}
    assert placed(entries, "jump_after_test", registers=["rdi"]).intact == {"rdi"}


def test_a_return_probe_needs_the_stack_untouched(entries):
    found = placed(entries, "nop_after_push", stack_untouched=True)
    assert (found.instruction, found.sp_offset) == ("push rbp", 0)
    assert placed(entries, "argument_lost", stack_untouched=True).cost_class == "single-step"


INLINED = """
static _Atomic int arrived, passed;
static inline __attribute__((always_inline)) void meet(int n)
{
	int before = passed;
	if (n == 1)
		return;
	if (++arrived == n) { arrived = 0; passed++; return; }
	while (passed == before) __builtin_ia32_pause();
}
int first(int n) { meet(n); return arrived; }
int second(int n, int times) { for (int i = 0; i < times; i++) { meet(n); arrived += i; } return passed; }
"""


@pytest.mark.parametrize("options", [["-O2"], ["-O3"], ["-O2", "-gdwarf-4"]])
def test_copies_of_by_debug_information(tmp_path, options):
    source, library = tmp_path / "inlined.c", tmp_path / "inlined.so"
    source.write_text(INLINED)
    subprocess.run(["gcc", "-g", "-shared", "-fPIC", *options, str(source), "-o", str(library)], check=True)
    with open(library, "rb") as file:
        elf, copies = Elf(file), copies_of(file, "meet")
        assert len(copies) == 2
        functions = [elf.function_at(copy.ranges[0][0]) for copy in copies]
        assert {function.name for function in functions} == {"first", "second"}
        for function, copy in zip(functions, copies, strict=True):
            found = cheapest_in_copy(elf, function, (), copy)
            assert isinstance(found, str) or found.address in instruction_addresses(library)
        assert copies_of(file, "nobody") == "debug information knows of no inlined copy"


def test_in_which_register_a_parameter_of_a_copy_lies(tmp_path):
    text = """
static inline __attribute__((always_inline)) int head(const int *tensor) { return *tensor ? tensor[1] + tensor[2] : 0; }
int first(int other, const int *p) { return other + head(p); }
"""
    source, library = tmp_path / "inlined.c", tmp_path / "inlined.so"
    source.write_text(text)
    subprocess.run(["gcc", "-g", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    with open(library, "rb") as file:
        (copy,) = copies_of(file, "head", "tensor")
        assert copy.register_at(copy.ranges[0][0]) == "si"
        assert copy.register_at(1 << 40) is None
        assert copies_of(file, "head")[0].registers == ()


def test_without_debug_information(entries):
    with open(entries, "rb") as file:
        assert "no debug information" in copies_of(file, "meet")
