"""The probe files: those that are shipped, and what is said about broken ones."""

from pathlib import Path

import pytest

from bitnet_trace.engines.probes import (
    NOWHERE,
    Location,
    load_probe_sets,
    parse_location,
    parse_probe_set,
    pt_regs_fields,
)
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role

BASE = 'engine = "base"\n[[probe]]\nrole = "decode"\naction = "call"\nalternatives = [{ symbols = ["a"] }]\n'


def test_shipped_files_cover_every_role_that_a_probe_can_have() -> None:
    sets = load_probe_sets()
    assert {one.engine for one in sets} == {"bitnet", "tmac", "ik_llama", "llama.cpp", None}
    roles = {probes.role for one in sets for probes in one.probes}
    assert roles == {role.name.lower() for role in Role} - {"startup", "gap", "idle", "attached", "function"}


def test_forks_are_tried_before_what_they_were_forked_from() -> None:
    names = [one.engine for one in load_probe_sets() if one.engine]
    assert names[-1] == "llama.cpp"


def test_every_fork_has_all_roles_of_its_base_once() -> None:
    sets = {one.name: one for one in load_probe_sets()}
    expected = sorted(probes.role for probes in sets["llama"].probes)
    for name in ("bitnet", "tmac", "ik_llama"):
        assert sorted(probes.role for probes in sets[name].probes) == expected


def test_only_llama_decode_has_its_batch_on_the_stack() -> None:
    [llama] = [one for one in load_probe_sets() if one.name == "llama"]
    [decode] = [probes for probes in llama.probes if probes.role == "decode"]
    sp = pt_regs_fields().index("sp")
    on_stack = [one.symbols for one in decode.alternatives if one.n_tokens == Location("memory", sp, 8)]
    assert on_stack == [("llama_decode",)]
    assert all(one.n_tokens.register != sp for one in decode.alternatives if one.symbols != ("llama_decode",))


def test_registers_are_numbered_as_the_kernel_side_has_them() -> None:
    assert pt_regs_fields()[0] == "r15"
    assert parse_location("rdi") == Location("register", 14)
    assert parse_location("rsi") == Location("register", 13)
    assert parse_location("r8") == Location("register", 9)
    assert parse_location("u32 at sp+8") == Location("memory", 19, 8) == parse_location("u32 at rsp+8")
    assert parse_location("u32 at rsi+0") == Location("memory", 13, 0)


@pytest.mark.parametrize(
    "text", ["", "edi", "u32 at rsi", "u64 at rsi+8", "u32 at rsi-8", "xmm0", "u32 at 5+5", "rdi "]
)
def test_other_places_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="register"):
        parse_location(text)


def test_an_extending_file_replaces_a_role_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE + BASE.partition("\n")[2].replace("decode", "load"))
    fork = BASE.replace('"base"', '"fork"\nextends = "base"').replace('["a"]', '["b"], context = "rdi"')
    (tmp_path / "fork.toml").write_text(fork)
    one, base = load_probe_sets(tmp_path)
    assert (one.engine, base.engine) == ("fork", "base")
    assert [(probes.role, probes.alternatives[0].symbols) for probes in one.probes] == [
        ("decode", ("b",)),
        ("load", ("a",)),
    ]
    assert one.probes[0].alternatives[0].context == Location("register", 14)
    assert one.probes[0].alternatives[0].argument == NOWHERE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine = ", "probes/x.toml: "),
        ("engine = 5", "engine must be a string"),
        ('colour = "red"', "unknown key 'colour'"),
        ('[recognise]\nsymbol = ["a"]', "unknown key 'symbol'"),
        ('[recognise]\nsymbols = "a"', "symbols must be a list"),
        (BASE.replace("decode", "decoding"), "unknown role 'decoding'"),
        (BASE.replace("call", "count"), "role decode: action must be"),
        (BASE.replace('{ symbols = ["a"] }', ""), "no alternatives"),
        (BASE.replace('"a"', ""), "without symbols"),
        (BASE.replace('["a"]', '["a"], context = "edi"'), '"edi" is no 64-bit register'),
        (BASE.replace('["a"]', '["a"], contxt = "rdi"'), "unknown key 'contxt'"),
        (BASE.replace('["a"]', '["a"], context = 5'), "probes/x.toml"),
        (BASE.replace('"call"', '"call"\nends_at_jump = 1'), "true or false"),
        ('probe = "decode"', "probes/x.toml"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_probe_set("x", text)
    assert message in caught.value.message


def test_an_unknown_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('engine = "x"\nextends = "nothing"')
    with pytest.raises(TraceError, match="nothing"):
        load_probe_sets(tmp_path)
    with pytest.raises(TraceError, match="no probe files"):
        load_probe_sets(tmp_path / "empty")
