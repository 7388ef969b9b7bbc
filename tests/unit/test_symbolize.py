"""What samples are told to be: functions in every kind of build, inlined ones, roles, spin loops."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.roles import known_roles, plain, role_of
from bitnet_trace.engines.spin import spinning
from bitnet_trace.engines.symbolize import symbolize
from bitnet_trace.errors import TraceError
from bitnet_trace.render import flame, folded
from tests.unit.compiled import addresses_by_nm, compiled

BUILDS = [
    ("-O2", "-g"), ("-O3",), ("-O2", "-static"), ("-flto", "-O2"), ("-fcf-protection=full",), ("-no-pie",),
]  # fmt: skip

SOURCE = r"""
#include <immintrin.h>
static inline __attribute__((always_inline)) int inner(volatile int *p) { int s = 0; for (int i = 0; i < 64; i++) s += *p * i; return s; }
__attribute__((noinline)) int outer(volatile int *p) { return inner(p) + 1; }
__attribute__((noinline)) void wait_for(volatile int *p) { while (*p) _mm_pause(); }
static __attribute__((noinline)) int local(volatile int *p) { return *p ^ 5; }
__attribute__((target_clones("avx2", "default"))) int chosen(volatile int *p) { return *p + 7; }
int main(int argc, char **argv) { volatile int x = argc - 1; wait_for(&x); return outer(&x) + local(&x) + chosen(&x); }
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("symbolize") / "places.c"
    path.write_text(SOURCE)
    return path


def built(source: Path, *flags: str, strip: bool = False) -> Path:
    program = source.with_name(f"places{abs(hash((flags, strip)))}")
    subprocess.run(["gcc", "-Wall", *flags, str(source), "-o", str(program)], check=True)
    if strip:
        subprocess.run(["strip", str(program)], check=True)
    return program


def places_of(program: Path, addresses: list[int]):
    with open(program, "rb") as file:
        elf = Elf(file)
        return symbolize(file, program.name, [elf.file_offset(address) for address in addresses])


@pytest.mark.parametrize("flags", BUILDS, ids=" ".join)
def test_functions_in_every_build(source, flags):
    program = built(source, *flags)
    by_name = addresses_by_nm(program)
    wanted = [name for name in ("outer", "wait_for", "local", "main") if name in by_name]
    assert len(wanted) >= 3
    for name, place in zip(wanted, places_of(program, [by_name[name] for name in wanted]), strict=True):
        assert place.function == name


def test_versions_of_one_function_have_names(source):
    program = built(source, "-O2")
    by_name = {name: at for name, at in addresses_by_nm(program).items() if name.startswith("chosen.")}
    assert len(by_name) >= 2
    names = [place.function for place in places_of(program, list(by_name.values()))]
    assert all(name is not None and name.startswith("chosen") for name in names)


def test_what_was_inlined_is_told_by_debug_information(source):
    program = built(source, "-O2", "-g")
    start = addresses_by_nm(program)["outer"]
    inlined = {place.inlined for place in places_of(program, list(range(start, start + 40)))}
    assert "inner" in inlined
    assert {place.inlined for place in places_of(built(source, "-O2"), [start])} == {None}


def test_separate_debug_information_is_read_by_its_build_id(source, monkeypatch, tmp_path):
    program = built(source, "-O2", "-g", "-Wl,--build-id")
    start = addresses_by_nm(program)["outer"]
    with open(program, "rb") as file:
        build_id = Elf(file).build_id
    assert build_id is not None
    place = tmp_path / build_id[:2] / f"{build_id[2:]}.debug"
    place.parent.mkdir()
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(place)], check=True)
    subprocess.run(["strip", str(program)], check=True)
    monkeypatch.setattr("bitnet_trace.engines.symbolize._DEBUG_FOLDER", tmp_path)
    places = places_of(program, list(range(start, start + 40)))
    assert {place.function for place in places} >= {"outer"}
    assert "inner" in {place.inlined for place in places}


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("flags", BUILDS, ids=" ".join)
def test_spin_loops(source, flags, strip):
    with_symbols = built(source, *flags)
    if "wait_for" not in addresses_by_nm(with_symbols):
        pytest.skip("the linker has inlined the loop")
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--disassemble=wait_for", str(with_symbols)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    pauses = [int(line.split(":")[0], 16) for line in listing.splitlines() if "\tpause" in line]
    assert pauses
    program = built(source, *flags, strip=strip)
    with open(program, "rb") as file:
        elf = Elf(file)
        assert spinning(elf, pauses) == set(pauses)
        main = addresses_by_nm(with_symbols)["main"]
        assert not spinning(elf, [main])


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_damaged_file_is_one_error(tmp_path_factory, junk, at):
    path = tmp_path_factory.mktemp("damage") / "x"
    whole = Path("/bin/true").read_bytes()
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    # nothing but a TraceError may come out
    with open(path, "rb") as file, contextlib.suppress(TraceError):
        assert len(symbolize(file, "x", [0, 0x2000, 1 << 60])) == 3


@pytest.mark.parametrize(
    ("function", "role"),
    [
        ("ggml_vec_dot_i2_i8_s", "hot kernel"),
        ("ggml_vec_dot_i2_i8_s_1x1(int, float*, unsigned long, void const*)", "hot kernel"),
        ("tbl_g4_int8_int32_update_impl<8, 2>(int, int*, signed char*, unsigned char*)", "hot kernel"),
        ("tbl_g4_int8_int32_update_strue_k8_b2_ak8_fafalse_zfalse_ostrue(int, int*)", "hot kernel"),
        ("(anonymous namespace)::mul_mat_iq2bn_q8_K64<1>(int, void const*)", "hot kernel"),
        ("ggml_barrier", "barrier"),
        ("ggml_compute_forward_mul_mat.part.0", "matmul"),
        ("ggml_compute_forward_rope", "op"),
        ("ggml_vec_dot_f16", "attention"),
        ("quantize_row_i8_s", "quantise"),
        ("libgomp.so.1.0.0", "OpenMP runtime"),
        ("exc_page_fault", "page fault"),
        ("no_such_thing", None),
    ],
)
def test_roles(function, role):
    found = role_of(function)
    assert (found.role if found else None) == role


def test_roles_explain_in_a_line():
    assert all(one.explain and "\n" not in one.explain and len(one.explain) < 140 for one in known_roles())


def test_plain_names():
    assert plain("a::f<b<int>, 2>(int, char*) const.part.0") == "a::f"
    assert plain("(anonymous namespace)::g(int)") == "g"


def test_flame_graphs_escape_what_programs_say():
    stacks = {("decode", "<script>alert(1)", "f"): 3_000_000, ("decode", "g"): 1_000_000}
    page = flame.render(stacks, "a <b>", "c & d")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1): 3.00 ms, 75.0 %" in page
    assert folded.render(stacks) == "decode;<script>alert(1);f 3000\ndecode;g 1000\n"


def test_programs_of_the_folder_too(tmp_path):
    program = compiled(tmp_path, "exits.c", "-g")
    by_name = addresses_by_nm(program)
    for name, place in zip(by_name, places_of(program, list(by_name.values())), strict=True):
        assert place.function is not None, name
