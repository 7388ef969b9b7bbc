"""ELF files: symbols, offsets and linking information of really compiled programs, and of damaged ones."""

import contextlib
import io
import subprocess
from pathlib import Path

import pytest
from compiled import addresses_by_nm, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.probes import parse_probe_set
from bitnet_trace.engines.resolve import resolve
from bitnet_trace.errors import TraceError

VARIANTS = {
    "plain": (),
    "position dependent": ("-no-pie",),
    "CET": ("-fcf-protection",),
    "static": ("-static",),
    "shared": ("-shared", "-fPIC"),
    "debug information": ("-g",),
    "no PLT": ("-fno-plt",),
}


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("elf"), "elf_calls.c", *VARIANTS[request.param])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ("-shared", "-fPIC", "-Wl,-soname,libcalls.so.1", "-Wl,-rpath,$ORIGIN/../lib:/opt/x", "-Wl,--build-id")
    return compiled(tmp_path_factory.mktemp("shared"), "elf_calls.c", *flags, strip=True)


def test_every_function_lies_where_nm_says(program: Path) -> None:
    expected = addresses_by_nm(program)
    with program.open("rb") as file:
        elf = Elf(file)
        for name in ("leaf", "many_returns", "by_value", "hidden_leaf"):
            assert {one.address for one in elf.functions_containing([name.encode()]) if one.name == name} == {
                expected[name]
            }


def test_a_name_inside_of_another_is_found_too(program: Path) -> None:
    with program.open("rb") as file:
        names = {one.name for one in Elf(file).functions_containing([b"tail_call"])}
    assert {"tail_call", "tail_call_twice"} <= names


def test_file_offset_and_read_agree(program: Path) -> None:
    data = program.read_bytes()
    with program.open("rb") as file:
        elf = Elf(file)
        [leaf] = [one for one in elf.functions_containing([b"leaf"]) if one.name == "leaf"]
        offset = elf.file_offset(leaf.address)
        assert elf.read(leaf.address, leaf.size) == data[offset : offset + leaf.size]
        with pytest.raises(TraceError, match="no segment"):
            elf.file_offset(0x7FFFFFFF0000)
        assert elf.read(0x7FFFFFFF0000, 4) == b""


def test_function_at_any_of_its_bytes(program: Path) -> None:
    with program.open("rb") as file:
        elf = Elf(file)
        [function] = [one for one in elf.functions_containing([b"many_returns"]) if one.name == "many_returns"]
        assert elf.function_at(function.address) == function
        assert elf.function_at(function.address + function.size - 1) == function
        assert elf.function_at(function.address + function.size) != function
        assert elf.function_at(8) is None


def test_a_stripped_library_keeps_what_it_exports(shared: Path) -> None:
    with shared.open("rb") as file:
        elf = Elf(file)
        assert elf.stripped
        names = {one.name for one in elf.functions_containing([b"leaf", b"by_value"])}
    assert names == {"leaf", "by_value"}


def test_linking_information(shared: Path) -> None:
    with shared.open("rb") as file:
        elf = Elf(file)
        assert elf.soname == "libcalls.so.1"
        assert elf.needed == ("libc.so.6",)
        assert elf.rpath + elf.runpath == ("$ORIGIN/../lib", "/opt/x")
        assert elf.interpreter is None
        build_id = elf.build_id
    notes = subprocess.run(["readelf", "-n", str(shared)], capture_output=True, text=True, check=True).stdout
    assert build_id is not None
    assert f"Build ID: {build_id}" in notes


def test_programs_name_their_dynamic_linker(tmp_path: Path) -> None:
    with compiled(tmp_path, "elf_calls.c").open("rb") as file:
        assert "ld-linux" in (Elf(file).interpreter or "")
    with compiled(tmp_path, "elf_calls.c", "-static", "-Wl,--build-id=none").open("rb") as file:
        elf = Elf(file)
        assert (elf.interpreter, elf.build_id, elf.needed) == (None, None, ())


def test_imported_names_count_as_names_not_as_functions(tmp_path: Path) -> None:
    with compiled(tmp_path, "elf_calls.c", strip=True).open("rb") as file:
        elf = Elf(file)
        assert elf.names_any(["no_such", "strdup"]) == "strdup"
        assert elf.mentions(b"strdu")
        assert elf.functions_containing([b"strdup"]) == []
        assert elf.names_any(["trdup"]) is None  # the end of a name is not the name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ELF file"),
        (b"#!/bin/sh\n" + bytes(100), "no ELF file"),
        (b"\x7fELF", "no ELF file"),
        (b"\x7fELF\x01\x01\x01" + bytes(57), "not for x86-64"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44), "not for x86-64"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\x00\x3e\x00" + bytes(44), "neither a program"),
    ],
)
def test_what_is_no_x86_64_program_is_one_error(data: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        Elf(io.BytesIO(data))


def test_a_file_cut_short_is_one_error(shared: Path) -> None:
    data = shared.read_bytes()
    with pytest.raises(TraceError, match="damaged") as caught:
        Elf(io.BytesIO(data[: len(data) // 2]), "half.so")
    assert caught.value.message.startswith("half.so")
    assert caught.value.hint


PROBE_SET = parse_probe_set(
    "test",
    """
    engine = "test"
    [recognise]
    markers = ["leaf"]
    symbols = ["leaf"]
    strings = ["no such text"]
    [[probe]]
    role = "decode"
    action = "call"
    alternatives = [{ symbols = ["many_returns", "tail_call_twice", "tail_to_library", "jump_table", "tail_to_hidden"] }]
    [[probe]]
    role = "sample"
    action = "mark"
    alternatives = [{ symbols = ["by_value", "no_such", "*_name"] }]
    """,
)

# Half of the damage goes where it hurts: headers and the tables at the end of the file.
_POSITIONS = st.one_of(st.integers(0, 63), st.integers(64, 800), st.integers(-4000, -1), st.integers(0, 1 << 20))
_VALUES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 3, b"\0\0\0\x80", (1 << 40).to_bytes(8, "little")]),
)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(_POSITIONS, _VALUES), min_size=1, max_size=6), cut=st.none() | st.integers(0, 20_000))
@pytest.mark.parametrize("stripped", [False, True])
def test_damage_is_one_error_or_nothing(
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
    stripped: bool,
    damage: list[tuple[int, bytes]],
    cut: int | None,
) -> None:
    """Any bytes changed, any length: an answer or a TraceError, in time."""
    data = bytearray(_library(shared, stripped, tmp_path_factory)[:cut])
    for position, value in damage:
        at = position % (len(data) or 1)
        data[at : at + len(value)] = value
    file = io.BytesIO(bytes(data))
    with contextlib.suppress(TraceError):
        elf = Elf(file)
        _ = elf.build_id, elf.needed, elf.runpath, elf.rpath, elf.soname, elf.interpreter
        resolve(file, "damaged", [PROBE_SET])


_libraries: dict[bool, bytes] = {}


def _library(shared: Path, stripped: bool, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if stripped not in _libraries:
        with_names = compiled(tmp_path_factory.mktemp("full"), "elf_calls.c", "-shared", "-fPIC")
        _libraries[stripped] = (shared if stripped else with_names).read_bytes()
    return _libraries[stripped]
