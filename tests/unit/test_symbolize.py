"""What samples are told to be: functions in every kind of build, inlined ones, roles, spin loops."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.names import plain
from bitnet_trace.engines.roles import known_roles, role_of
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
    place = tmp_path / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    place.parent.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(place)], check=True)
    subprocess.run(["strip", str(program)], check=True)
    monkeypatch.setattr("bitnet_trace.engines.debug_info._DEBUG_FOLDER", tmp_path)
    places = places_of(program, list(range(start, start + 40)))
    assert {place.function for place in places} >= {"outer"}
    assert "inner" in {place.inlined for place in places}


def test_separate_debug_information_is_read_by_its_link(source, tmp_path):
    program = built(source, "-O2", "-g", "-Wl,--build-id=none")
    start = addresses_by_nm(program)["outer"]
    aside = tmp_path / "sub" / "program"
    (aside.parent / ".debug").mkdir(parents=True)
    link = aside.parent / ".debug" / "program.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(link)], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={link}", str(program), str(aside)], check=True)
    with open(aside, "rb") as file:
        offsets = [Elf(file).file_offset(address) for address in range(start, start + 40)]
        places = symbolize(file, str(aside), offsets)
        assert {place.function for place in places} >= {"outer"}
        assert "inner" in {place.inlined for place in places}
        # a file of that name that is another's is not taken
        link.write_bytes(link.read_bytes() + b"x")
        assert all(place.inlined is None for place in symbolize(file, str(aside), offsets))


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


TERNARY = r"""
#include <immintrin.h>
#include <stdio.h>
__attribute__((noinline, target("avx2"))) int dot(const unsigned char *x, const signed char *y, int n)
{
	__m256i mask = _mm256_set1_epi8(3), sum = _mm256_setzero_si256();
	for (int i = 0; i < n; i++) {
		__m256i w = _mm256_loadu_si256((const __m256i *)(x + 32 * i));
		const __m256i *a = (const __m256i *)(y + 128 * i);
		__m256i p = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 6), mask), _mm256_loadu_si256(a));
		p = _mm256_add_epi16(p, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 4), mask), _mm256_loadu_si256(a + 1)));
		p = _mm256_add_epi16(p, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 2), mask), _mm256_loadu_si256(a + 2)));
		p = _mm256_add_epi16(p, _mm256_maddubs_epi16(_mm256_and_si256(w, mask), _mm256_loadu_si256(a + 3)));
		sum = _mm256_add_epi32(sum, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
	}
	return _mm256_extract_epi32(sum, 0);
}
__attribute__((noinline)) int other(const unsigned char *x, int n) { int s = 0; while (n--) s += *x++; return s; }
int main(int argc, char **argv) { printf("%d %d", dot((void *)argv, (void *)argv, argc), other((void *)argv, argc)); }
"""


def test_functions_of_stripped_programs_are_told_apart_and_recognised_by_their_code(tmp_path):
    (tmp_path / "ternary.c").write_text(TERNARY)
    named = built(tmp_path / "ternary.c", "-O2")
    by_name = addresses_by_nm(named)
    stripped = built(tmp_path / "ternary.c", "-O2", strip=True)
    places = places_of(stripped, [by_name["dot"] + 20, by_name["other"] + 3])
    start = {name: f"[{stripped.name}+{by_name[name]:#x}" for name in ("dot", "other")}
    assert [place.function for place in places] == [f"{start['dot']}, like I2_S]", f"{start['other']}]"]
    assert [role_of(place.function).role for place in places] == ["hot kernel", "unnamed"]
    assert [place.function for place in places_of(named, [by_name["dot"] + 20])] == ["dot"]


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
        ("ggml_barrier()::{lambda()#1}::operator()() const", "engine"),
        ("void gemv_q4_b32_8x8_q8_0_lut_avx<block<4, 8> >(int, float*)", "hot kernel"),
        ("[libomp.so.5+0x7bdb0]", "OpenMP runtime"),
        ("[llama-cli+0x224e30]", "unnamed"),
        ("[llama-cli+0x224e30, like I2_S]", "hot kernel"),
        ("three_tbl_impl_4096_1536<1, 1536>(int*, signed char*)", "hot kernel"),
        ("ggml_qgemm_lut", "hot kernel"),
        ("qgemm_lut_1536_4096(void*, void*)", "hot kernel"),
        ("ggml_preprocessor", "LUT build"),
        ("preprocessor_k<1536>(void*, void*, void*)", "LUT build"),
        ("no_such_thing", None),
    ],
)
def test_roles(function, role):
    found = role_of(function)
    assert (found.role if found else None) == role


@pytest.mark.parametrize(
    ("module", "role"),
    [("[kernel]", "kernel"), ("libc.so.6", "C library"), ("libm.so.6", "math"), ("libgomp.so.1", "OpenMP runtime"),
     ("llama-cli", None)],
)  # fmt: skip
def test_roles_of_whole_files(module, role):
    found = role_of("no_such_thing", module)
    assert (found.role if found else None) == role


def test_roles_explain_in_a_line():
    assert all(one.explain and "\n" not in one.explain and len(one.explain) < 140 for one in known_roles())


def test_plain_names():
    assert plain("a::f<b<int>, 2>(int, char*) const.part.0") == "a::f"
    assert plain("(anonymous namespace)::g(int)") == "g"
    assert plain("void gemv<block<4, 8> >(int, float*)") == "gemv"
    assert plain("f(int)::{lambda(char)#1}::operator()(char) const") == "f::{lambda#1}::operator"
    assert plain("std::vector<int> a::f<int>(int (*)(int)) [clone .part.0]") == "a::f"
    assert plain("ggml_graph_compute_thread.constprop.0.isra.0") == "ggml_graph_compute_thread"


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
