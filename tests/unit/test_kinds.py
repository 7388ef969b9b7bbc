"""Functions of every kind of symbol, in builds of both compilers: their names by nm are the truth for what is said."""

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from compiled import PROGRAMS, addresses_by_nm

from bitnet_trace.cli import cli
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.names import plain
from bitnet_trace.engines.roles import role_of
from bitnet_trace.engines.symbolize import symbolize

SOURCE = PROGRAMS / "kinds.cpp"
CLANG = shutil.which("clang++") or next(iter(sorted(map(str, Path("/usr/lib").glob("llvm-*/bin/clang++")))), None)
COMPILERS = {"gcc": "g++", "clang": CLANG}
FLAGS = ["-O2 -g", "-O3", "-O2 -flto", "-O2 -static", "-O2 -fcf-protection=full"]

# what each is, by a part of its name
NAMES = {
    "llama_decode": "llama_decode",
    "ggml_vec_dot_exported": "ggml_vec_dot_exported",
    "ggml_vec_dot_local": "ggml_vec_dot_local",
    "ggml_graph_compute_exported": "ggml_graph_compute_exported",
    "ggml_vec_dot_templateILi4E": "ggml_vec_dot_template",
    "ggml_vec_dot_templateILi8E": "ggml_vec_dot_template",
    "quantize_row_mangled": "engine::quantize_row_mangled",
    "dequantize_row_hidden": "dequantize_row_hidden",
    "rope_constant": "rope_constant",
    "rope_unlikely": "rope_unlikely",
    "rope_field": "rope_field",
    "avx_version": "avx_version",
    "choose": "choose",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """`build("gcc", "-O2 -g", strip=True)` is the program, compiled once."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {}

    def compiled(compiler, flags, strip=False):
        command = COMPILERS[compiler]
        if command is None:
            pytest.skip(f"no {compiler}++ here")
        key = (compiler, flags, strip)
        if key not in made:
            made[key] = folder / f"k{len(made)}"
            subprocess.run([command, "-Wall", *flags.split(), str(SOURCE), "-o", str(made[key])], check=True)
            if strip:
                subprocess.run(["strip", str(made[key])], check=True)
        return made[key]

    return compiled


def places(program, addresses):
    with open(program, "rb") as file:
        offsets = [Elf(file).file_offset(address) for address in addresses]
        return symbolize(file, str(program), offsets)


def survey(program):
    result = CliRunner().invoke(cli, ["probes", str(program), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def functions_of(program):
    """Of the program's own file: kind and offset by name, a list for each."""
    found = {}
    own = next(file for file in survey(program)["files"] if file["path"] == str(program))
    for function in own["functions"]:
        found.setdefault(plain(function["name"]).removeprefix("engine::"), []).append(function)
    return found


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_function_has_its_name(build, compiler, flags):
    program = build(compiler, flags)
    by_name = addresses_by_nm(program)
    wanted = {name: at for name, at in by_name.items() if any(part in name for part in NAMES)}
    assert len(wanted) >= len(NAMES)
    for name, place in zip(wanted, places(program, list(wanted.values())), strict=True):
        expected = next(full for part, full in NAMES.items() if part in name)
        if expected == "choose":  # and the IFUNC, which has its address
            assert plain(place.function) in ("choose", "quantize_row_chosen")
        elif "lambda" not in name:
            assert plain(place.function) == expected, (name, place)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_lambda_is_not_the_function_around_it(build, compiler):
    program = build(compiler, "-O3")
    inner = {name: at for name, at in addresses_by_nm(program).items() if name.startswith("_ZZ32")}
    assert len(inner) == 1
    (place,) = places(program, list(inner.values()))
    assert plain(place.function) != "ggml_compute_forward_with_lambda"
    assert "ggml_compute_forward_with_lambda" in place.function


def test_clones_keep_their_role(build):
    program = build("gcc", "-O2 -g")
    clones = [name for name in addresses_by_nm(program) if "rope_" in name and "." in name]
    assert {re.sub(r"[.\d]+$", "", name.partition(".")[2]) for name in clones} >= {"constprop", "isra", "cold", "part"}
    by_name = addresses_by_nm(program)
    for name, place in zip(clones, places(program, [by_name[name] for name in clones]), strict=True):
        assert "." + name.partition(".")[2] in place.function
        assert role_of(place.function).role == "op"


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_stripped_programs_keep_their_functions_apart(build, compiler, flags):
    by_name = addresses_by_nm(build(compiler, flags))
    wanted = [at for name, at in by_name.items() if any(part in name for part in NAMES) and ".cold" not in name]
    stripped = build(compiler, flags, strip=True)
    for address, place in zip(wanted, places(stripped, wanted), strict=True):
        assert place.function == f"[{stripped.name}+{address:#x}]"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_probes_say_what_kind_of_symbol_there_is(build, compiler):
    program = build(compiler, "-O2 -g -rdynamic")
    by_name = addresses_by_nm(program)
    found = functions_of(program)

    def kind(name):
        return [function["kind"] for function in found[name]]

    assert kind("ggml_vec_dot_exported") == ["exported"]
    assert kind("ggml_vec_dot_local") == ["local"]
    assert sorted(kind("ggml_vec_dot_template")) == ["exported, template"] * 2
    assert kind("dequantize_row_hidden") == ["local"]
    assert kind("quantize_row_chosen") == ["IFUNC"]
    (barrier,) = found["ggml_barrier"]
    assert (barrier["kind"], barrier["into"]) == ("inlined", "ggml_graph_compute_exported")
    assert barrier["copies"] >= 2
    if compiler == "gcc":
        assert "local, clone .constprop.0" in kind("rope_constant")
        assert sorted(kind("rope_unlikely")) == ["local", "local, clone .cold"]
    (exported,) = found["ggml_vec_dot_exported"]
    with open(program, "rb") as file:
        assert exported["offset"] == Elf(file).file_offset(by_name["ggml_vec_dot_exported"])
    listing = subprocess.run(
        ["objdump", "-d", "-M", "intel", "--disassemble=ggml_vec_dot_exported", str(program)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert exported["instruction"].split()[0] in listing


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_inlined_copies_are_those_of_the_debug_information(build, compiler):
    program = build(compiler, "-O2 -g -rdynamic")
    (barrier,) = functions_of(program)["ggml_barrier"]
    with open(program, "rb") as file:
        address = Elf(file).address(barrier["offset"])
    dump = subprocess.run(
        ["readelf", "--debug-dump=info", str(program)], check=True, capture_output=True, text=True
    ).stdout
    entries = re.split(r"^ <\d+><", dump, flags=re.MULTILINE)
    (origin,) = [
        one.split(">")[0]
        for one in entries
        if re.search(r"DW_AT_name .*: ggml_barrier\n", one) and "DW_AT_inline" in one
    ]
    copies = [one for one in entries if f"DW_AT_abstract_origin: <0x{origin}>" in one and "inlined_subroutine" in one]
    assert barrier["copies"] == len(copies)
    begins = [
        int(at, 16) for one in copies for at in re.findall(r"DW_AT_(?:low|entry)_pc\s*: (?:\(.*\) )?(0x[0-9a-f]+)", one)
    ]
    assert address in begins or compiler == "clang"  # which may give numbers of a table in place of addresses


def test_functions_of_another_library(build, tmp_path):
    library = tmp_path / "libkinds.so"
    subprocess.run(["g++", "-O2", "-fPIC", "-shared", str(SOURCE), "-o", str(library)], check=True)
    (tmp_path / "user.c").write_text(
        "int llama_decode(void *, int); int ggml_vec_dot_exported(const int *, int);"
        "int main(int n, char **v) { int x[9] = {n}; return llama_decode(v, n) + ggml_vec_dot_exported(x, n); }"
    )
    user = tmp_path / "user"
    arguments = [
        "gcc",
        "-O2",
        str(tmp_path / "user.c"),
        "-o",
        str(user),
        f"-L{tmp_path}",
        "-lkinds",
        f"-Wl,-rpath,{tmp_path}",
    ]
    subprocess.run(arguments, check=True)
    subprocess.run(["strip", str(library)], check=True)
    files = {Path(file["path"]).name: file for file in survey(user)["files"]}
    kinds = {name: {one["name"]: one["kind"] for one in file["functions"]} for name, file in files.items()}
    assert kinds["user"]["ggml_vec_dot_exported"] == "PLT"
    assert kinds["libkinds.so"]["ggml_vec_dot_exported"] == "dynamic only"
    (at,) = [one["offset"] for one in files["user"]["functions"] if one["name"] == "ggml_vec_dot_exported"]
    listing = subprocess.run(["objdump", "-d", str(user)], check=True, capture_output=True, text=True).stdout
    stub = re.search(r"^([0-9a-f]+) <ggml_vec_dot_exported@plt>:", listing, re.MULTILINE)
    with open(user, "rb") as file:
        assert Elf(file).address(at) == int(stub[1], 16)


def test_what_is_missing_and_how_a_build_has_it(build):
    with_symbols = {one["role"]: one for one in survey(build("gcc", "-O2 -g -rdynamic"))["functions_missing"]}
    assert with_symbols["barrier"]["reason"] == "inlined only"
    assert "noinline" in with_symbols["barrier"]["build"]
    assert "hot kernel" not in with_symbols
    without_debug = build("gcc", "-O2 -rdynamic")
    missing = {one["role"]: one for one in survey(without_debug)["functions_missing"]}
    assert "-g" in missing["barrier"]["build"]
    stripped = build("gcc", "-O2 -rdynamic", strip=True)
    missing = {one["role"]: one for one in survey(stripped)["functions_missing"]}
    assert "stripped" in missing["dequantise"]["reason"]
    assert "strip" in missing["dequantise"]["build"]


def test_ifuncs_of_the_c_library(build):
    files = survey(build("gcc", "-O2 -g -rdynamic"))["files"]
    (libc,) = [file for file in files if Path(file["path"]).name.startswith("libc.so")]
    kinds = {one["name"]: one["kind"] for one in libc["functions"]}
    assert kinds["memcpy"] == "IFUNC"
    assert kinds["malloc"] in ("exported", "dynamic only")


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed (the extra 'demo')")
def test_a_library_inside_of_a_python_wheel():
    (library,) = Path(find_spec("xllamacpp").origin).parent.glob("xllamacpp*.so")
    by_name = addresses_by_nm(library)
    wanted = ["llama_decode", "ggml_vec_dot_tq2_0_q8_K", "ggml_barrier"]
    with open(library, "rb") as file:
        offsets = [Elf(file).file_offset(by_name[name]) for name in wanted]
        assert [place.function for place in symbolize(file, str(library), offsets, patient=False)] == wanted


def test_the_text_names_a_few_of_each_role(build):
    result = CliRunner().invoke(cli, ["probes", str(build("gcc", "-O2 -g -rdynamic"))], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for text in ("hot kernel", "inlined 2 times, into ggml_graph_compute_exported", "-fno-inline", "IFUNC"):
        assert text in result.stdout, text
