"""From compiled programs to probes: entries, every exit, what is not probed and what is said about it."""

import io
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from compiled import addresses_by_nm, compiled, instruction_addresses, returns_by_objdump

from bitnet_trace.commands.probes import probes as probes_command
from bitnet_trace.engines.code import cost_class
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.found import engine_of, missing_roles
from bitnet_trace.engines.libraries import linked_files
from bitnet_trace.engines.probes import Location, ProbeSet, load_probe_sets, parse_probe_set
from bitnet_trace.engines.resolve import Probe, Resolution, resolve
from bitnet_trace.errors import TraceError

VARIANTS = {
    "plain": (),
    "CET": ("-fcf-protection",),
    "static": ("-static",),
    "shared": ("-shared", "-fPIC"),
    "no PLT": ("-fno-plt", "-shared", "-fPIC"),
    "not optimised": ("-O0",),
}


def probe_set(role: str, action: str, *symbols: str, more: str = "") -> ProbeSet:
    text = f"""
    engine = "test"
    [recognise]
    markers = ["leaf", "decode"]
    symbols = ["leaf", "main"]
    [[probe]]
    role = "{role}"
    action = "{action}"
    alternatives = [{{ symbols = {list(symbols)} }}]
    {more}
    """
    return parse_probe_set("test", text)


def resolved(program: Path, *sets: ProbeSet) -> Resolution:
    with program.open("rb") as file:
        return resolve(file, str(program), sets)


def call(program: Path, *symbols: str, more: str = "") -> Resolution:
    return resolved(program, probe_set("decode", "call", *symbols, more=more))


def addresses(program: Path, resolution: Resolution, action: str) -> set[int]:
    """Virtual addresses of the probes with an action."""
    with program.open("rb") as file:
        elf = Elf(file)
        by_offset = {elf.file_offset(address): address for address in instruction_addresses(program)}
    return {by_offset[probe.file_offset] for probe in resolution.probes if probe.action == action}


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("resolve"), "elf_calls.c", *VARIANTS[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("plain"), "elf_calls.c")


@pytest.mark.parametrize("function", ["leaf", "many_returns", "jump_table", "by_value", "with_cold_part"])
def test_a_call_begins_at_the_entry_and_ends_at_every_return(program: Path, function: str) -> None:
    resolution = call(program, function)
    assert addresses(program, resolution, "begin") == {addresses_by_nm(program)[function]}
    returns = returns_by_objdump(program, function)
    assert returns
    ends = addresses(program, resolution, "end")
    if function == "leaf":
        assert ends == returns
    assert ends >= returns
    assert all(probe.role == "decode" for probe in resolution.probes)
    assert not resolution.missing


@pytest.mark.parametrize("function", ["tail_call", "tail_call_twice", "tail_to_hidden"])
def test_tail_jumps_are_followed_to_the_returns_of_the_target(plain: Path, function: str) -> None:
    target = "hidden_leaf" if function == "tail_to_hidden" else "leaf"
    assert returns_by_objdump(plain, function) == set(), "the compiler made no tail jump of it"
    assert addresses(plain, call(plain, function), "end") == returns_by_objdump(plain, target)


@pytest.mark.parametrize("flags", [(), ("-fcf-protection",), ("-fno-plt",), ("-Wl,-z,lazy",)], ids=" ".join)
def test_tail_jumps_through_the_plt_are_followed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    library = compiled(tmp_path, "elf_calls.c", "-shared", "-fPIC", *flags)
    assert addresses(library, call(library, "tail_call_twice"), "end") == returns_by_objdump(library, "leaf")


def test_a_tail_jump_into_code_without_a_name_is_followed(tmp_path: Path) -> None:
    with_names = compiled(tmp_path, "elf_calls.c", "-shared", "-fPIC")
    returns = returns_by_objdump(with_names, "hidden_leaf")
    subprocess.run(["strip", with_names], check=True)
    assert addresses(with_names, call(with_names, "tail_to_hidden"), "end") == returns


def test_a_tail_jump_into_another_library_ends_the_call(plain: Path) -> None:
    resolution = call(plain, "tail_to_library")
    [end] = [probe for probe in resolution.probes if probe.action == "end"]
    assert end.instruction.startswith("jmp")
    assert end.cost_class == "emulated"
    assert not resolution.doubts


def test_a_tail_jump_known_only_at_run_time_is_a_doubt(plain: Path) -> None:
    resolution = call(plain, "tail_to_pointer")
    assert not [probe for probe in resolution.probes if probe.action == "end"]
    [(role, text)] = resolution.doubts
    assert role == "decode"
    assert "tail_to_pointer" in text


def test_with_ends_at_jump_no_tail_jump_is_followed(plain: Path) -> None:
    for function in ("tail_to_pointer", "tail_call"):
        resolution = call(plain, function, more="ends_at_jump = true")
        [end] = [probe for probe in resolution.probes if probe.action == "end"]
        assert "jmp" in end.instruction
        assert not resolution.doubts


def test_a_jump_table_is_no_tail_jump(program: Path) -> None:
    resolution = call(program, "jump_table")
    assert not resolution.doubts
    assert all("jmp" not in probe.instruction for probe in resolution.probes if probe.action == "end")


def test_an_old_name_that_only_jumps_to_the_new_one_is_not_probed_twice(plain: Path) -> None:
    both = call(plain, "old_name", "many_returns")
    assert both.probes == call(plain, "many_returns").probes
    alone = call(plain, "old_name")
    assert addresses(plain, alone, "begin") == {addresses_by_nm(plain)["old_name"]}
    assert addresses(plain, alone, "end") >= returns_by_objdump(plain, "many_returns")


def test_every_probe_is_on_an_instruction(program: Path) -> None:
    names = (
        "leaf",
        "many_returns",
        "jump_table",
        "tail_call_twice",
        "tail_to_library",
        "tail_to_hidden",
        "with_cold_part",
    )
    resolution = call(program, *names)
    addresses(program, resolution, "begin")  # fails where a probe lies between two
    addresses(program, resolution, "end")
    assert len([probe for probe in resolution.probes if probe.action == "begin"]) == len(names)


def test_marks_and_tokens_are_single_probes_with_their_arguments(plain: Path) -> None:
    places = '{ symbols = ["by_value"], context = "rdi", n_tokens = "u32 at sp+8" }'
    text = f'engine = "t"\n[recognise]\nmarkers = ["leaf"]\nsymbols = ["leaf"]\n[[probe]]\nrole = "ubatch"\naction = "tokens"\nalternatives = [{places}]'
    [probe] = resolved(plain, parse_probe_set("t", text)).probes
    assert (probe.action, probe.role, probe.symbol) == ("tokens", "ubatch", "by_value")
    assert (probe.context, probe.n_tokens) == (Location("register", 14), Location("memory", 19, 8))


def test_of_the_alternatives_the_first_that_is_there_is_taken(plain: Path) -> None:
    text = """
    engine = "t"
    [recognise]
    markers = ["leaf"]
    symbols = ["leaf"]
    [[probe]]
    role = "sample"
    action = "mark"
    alternatives = [
      { symbols = ["not_there"] },
      { symbols = ["leaf"], when = ["not_there_either"] },
      { symbols = ["tail_call", "by_value"] },
      { symbols = ["many_returns"] },
    ]
    """
    assert {probe.symbol for probe in resolved(plain, parse_probe_set("t", text)).probes} == {"tail_call", "by_value"}


def test_lambdas_and_clones_are_not_the_function(tmp_path: Path) -> None:
    program = compiled(tmp_path, "elf_names.cpp")
    resolution = resolved(program, probe_set("decode", "mark", "engine::context::decode(batch_ext const&)"))
    assert [probe.symbol for probe in resolution.probes] == ["engine::context::decode(batch_ext const&)"]


def test_what_is_missing_is_said_with_the_reason(tmp_path: Path) -> None:
    program = compiled(tmp_path, "elf_calls.c", strip=True)
    [one] = [ProbeSet("t", "t", None, ("free",), ("free",), (), probe_set("load", "call", "strdup").probes)]
    assert resolved(program, one).missing == [("load", "strdup is in another library")]
    [other] = [ProbeSet("t", "t", None, ("free",), ("free",), (), probe_set("load", "call", "leaf").probes)]
    assert resolved(program, other).missing == [("load", "no symbol leaf (the file is stripped)")]


def test_a_stripped_program_is_recognised_by_its_texts(tmp_path: Path) -> None:
    source = tmp_path / "texts.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("I2_S - 2 bpw ternary") < 0; }\n')
    program = tmp_path / "texts"
    subprocess.run(["gcc", "-O2", str(source), "-o", str(program), "-s"], check=True)
    resolution = resolved(program, *load_probe_sets())
    assert (resolution.engine, resolution.probes) == ("bitnet", [])
    assert dict(resolution.missing)["decode"].endswith("(the file is stripped)")


@pytest.mark.parametrize(
    ("barrier", "team"), [("GOMP_barrier", "GOMP_parallel"), ("__kmpc_barrier", "__kmpc_fork_call")]
)
def test_what_stands_before_an_openmp_runtime_has_no_barrier_of_its_own(
    tmp_path: Path, barrier: str, team: str
) -> None:
    """It calls the runtime's, which is probed too."""
    source, library = tmp_path / "before.c", tmp_path / "before.so"
    own = f"void {barrier}(void) {{ ((void (*)(void))dlsym(RTLD_NEXT, __func__))(); }}\n"
    for text, names in ((own, []), (f"{own}void {team}(void) {{}}\n", [barrier])):
        source.write_text(f"#define _GNU_SOURCE\n#include <dlfcn.h>\n{text}")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        assert [probe.symbol for probe in resolved(library, *load_probe_sets()).probes] == names


def test_files_that_no_set_knows_are_empty(plain: Path) -> None:
    assert resolved(plain, *load_probe_sets()) == Resolution()


def test_the_dynamic_linker_has_its_hook() -> None:
    linker = Path("/lib64/ld-linux-x86-64.so.2")
    if not linker.exists():
        pytest.skip("no glibc dynamic linker at its usual place")
    resolution = resolved(linker, *load_probe_sets())
    assert [(probe.role, probe.action, probe.symbol) for probe in resolution.probes] == [
        ("link_map", "mark", "_dl_debug_state")
    ]
    assert resolution.engine is None


def test_what_is_no_elf_file_is_one_error() -> None:
    with pytest.raises(TraceError, match="run_inference"):
        resolve(io.BytesIO(b"#!/usr/bin/env python3\n"), "run_inference.py", load_probe_sets())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0f1f440000", "nop"),
        ("55", "emulated"),  # push rbp
        ("4157", "emulated"),  # push r15
        ("90", "emulated"),  # nop
        ("6690", "emulated"),  # xchg ax,ax
        ("e912345678", "emulated"),  # jmp
        ("eb10", "emulated"),
        ("f2e912345678", "emulated"),  # bnd jmp
        ("e812345678", "emulated"),  # call
        ("7410", "emulated"),  # je
        ("0f8412345678", "emulated"),
        ("66e81234", "single-step"),  # 16-bit call
        ("f30f1efa", "single-step"),  # endbr64
        ("c3", "single-step"),  # ret
        ("f3c3", "single-step"),
        ("85ff", "single-step"),  # test edi,edi
        ("4889e5", "single-step"),  # mov rbp,rsp
        ("0f1f00", "single-step"),  # nop of 3 bytes
        ("ff2512345678", "single-step"),  # jmp [rip+x]
        ("6a10", "single-step"),  # push imm
        ("4855", "single-step"),  # push with a needless prefix
        ("f00fb10f", "refused"),  # lock cmpxchg
        ("662e0f1f840000000000", "refused"),  # cs nop
        ("", "single-step"),
        ("66", "single-step"),
    ],
)
def test_cost_class_follows_the_kernels_rules(code: str, expected: str) -> None:
    assert cost_class(bytes.fromhex(code)) == expected


def test_engine_and_missing_roles_of_several_files() -> None:
    probe = Probe("decode", "begin", "llama_decode", 1, "ret", "c3", "single-step")
    program = Resolution("llama.cpp", [], [("decode", "in another library"), ("warmup", "in another library")])
    library = Resolution("bitnet", [probe], [("warmup", "no symbol")])
    assert engine_of([program, library]) == "bitnet"
    assert engine_of([program]) == "llama.cpp"
    assert engine_of([Resolution()]) is None
    assert missing_roles([program, library]) == [("warmup", "no symbol")]


# ---- the libraries of a program, and the command -------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program ./bin/prog that finds ./lib/libllama.so by its RUNPATH, and a library that nobody finds."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "lib").mkdir()
    (folder / "bin").mkdir()
    (folder / "lib.c").write_text(
        "int llama_backend_init(void) { return 1; }\n"
        "struct batch { int n; void *p[6]; };\n"
        "__attribute__((noinline)) int llama_decode(void *c, struct batch b) { return b.n + (c != 0); }\n"
    )
    (folder / "gone.c").write_text("int gone(void) { return 0; }\n")
    (folder / "prog.c").write_text(
        "struct batch { int n; void *p[6]; };\nint llama_decode(void *, struct batch); int gone(void);\n"
        "int main(int argc, char **argv) { struct batch b = {argc}; return llama_decode(argv, b) + gone(); }\n"
    )

    def gcc(*arguments: str) -> None:
        subprocess.run(["gcc", "-O2", *arguments], check=True, cwd=folder)

    gcc("-shared", "-fPIC", "lib.c", "-o", "lib/libllama.so")
    gcc("-shared", "-fPIC", "gone.c", "-o", "lib/libgone.so")
    gcc("prog.c", "-Llib", "-lllama", "-lgone", "-Wl,-rpath,$ORIGIN/../lib", "-o", "bin/prog")
    (folder / "lib/libgone.so").rename(folder / "hidden.so")
    return folder


def test_libraries_are_found_as_the_dynamic_linker_does(engine: Path) -> None:
    linked = linked_files(engine / "bin/prog", {})
    names = [path.name for path in linked.files]
    assert names[0] == "prog"
    assert {"libllama.so", "libc.so.6", "ld-linux-x86-64.so.2"} <= set(names)
    assert len(names) == len(set(names))
    assert linked.not_found == ("libgone.so",)
    (engine / "other").mkdir()
    os.link(engine / "hidden.so", engine / "other/libgone.so")
    assert linked_files(engine / "bin/prog", {"LD_LIBRARY_PATH": f"/no/such:{engine}/other"}).not_found == ()


def test_libraries_are_those_that_ldd_names() -> None:
    python = Path("/usr/bin/python3").resolve()
    listed = subprocess.run(["ldd", str(python)], capture_output=True, text=True, check=True).stdout
    expected = {Path(word).resolve() for word in listed.split() if word.startswith("/")}
    assert {path.resolve() for path in linked_files(python, {}).files} - {python} == expected


def test_a_library_for_another_machine_is_passed_over(engine: Path, tmp_path: Path) -> None:
    data = bytearray((engine / "hidden.so").read_bytes())
    data[18] = 0xB7  # AArch64
    (tmp_path / "libgone.so").write_bytes(data)
    assert linked_files(engine / "bin/prog", {"LD_LIBRARY_PATH": str(tmp_path)}).not_found == ("libgone.so",)


def test_command_shows_probes_of_the_program_and_its_libraries(engine: Path) -> None:
    result = CliRunner().invoke(
        probes_command, [str(engine / "bin/prog")], env={"COLUMNS": "300"}, catch_exceptions=False
    )
    assert f"{engine}/bin/prog: llama.cpp" in result.output
    assert "libllama.so" in result.output
    assert "context=rdi, n_tokens=u32 at rsp+8" in result.output
    assert "not probed   sample: no symbol llama_sampler_sample" in result.output
    assert "not found    libgone.so" in result.output


def test_command_as_json_is_what_resolve_says(engine: Path) -> None:
    result = CliRunner().invoke(probes_command, [str(engine / "bin/prog"), "--json"], catch_exceptions=False)
    document = json.loads(result.output)
    assert document["engine"] == "llama.cpp"
    [library] = [one for one in document["files"] if one["path"].endswith("libllama.so")]
    expected = resolved(engine / "lib/libllama.so", *load_probe_sets())
    assert library["probes"] == json.loads(json.dumps([asdict(probe) for probe in expected.probes]))
    assert "decode" not in {one["role"] for one in document["missing"]}
    assert document["libraries_not_found"] == ["libgone.so"]


def test_command_without_a_binary_lists_roles_and_names() -> None:
    result = CliRunner().invoke(probes_command, [], catch_exceptions=False)
    for expected in ("llama_decode", "_dl_debug_state", "teardown", "ik_llama", "llama_sample_token_with_rng"):
        assert expected in result.output
    sets = json.loads(CliRunner().invoke(probes_command, ["--json"], catch_exceptions=False).output)["sets"]
    assert [one["name"] for one in sets] == [one.name for one in load_probe_sets()]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("/no/such/file", "no such file"), ("no-such-program-anywhere", "no such file"), (__file__, "no ELF file")],
)
def test_command_errors_are_one_line_and_a_hint(argument: str, message: str) -> None:
    result = CliRunner().invoke(probes_command, [argument])
    assert isinstance(result.exception, TraceError)
    assert message in result.exception.message
    assert result.exception.hint


def test_command_says_that_a_script_is_one(tmp_path: Path) -> None:
    script = tmp_path / "run_inference.py"
    script.write_text("#!/usr/bin/env python3\n")
    result = CliRunner().invoke(probes_command, [str(script)])
    assert isinstance(result.exception, TraceError)
    assert "is a script" in result.exception.message
