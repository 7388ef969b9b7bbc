"""What is probed, as data: the files probes/*.toml. Their format is described at the top of probes/llama.toml."""

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bitnet_trace.errors import TraceError
from bitnet_trace.recording.layout import Role
from bitnet_trace.resources import bpf_dir, probes_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SetAction = Literal["call", "mark", "tokens", "window"]

_LOCATION = re.compile(r"(?P<register>\w+)|u32 at (?P<base>\w+)\+(?P<offset>\d+)")
_SWITCHES = ("ends_at_jump", "each_token", "inlined")
_ACTIONS = ("call", "mark", "tokens", "window")
_SHORT_NAMES = {f"r{name}": name for name in ("bp", "bx", "ax", "cx", "dx", "si", "di", "sp")}


@dataclass(frozen=True, slots=True)
class Location:
    """Where a value lies when a probe is hit.

    "register": the register itself; "memory": the unsigned 32-bit word at register + offset (the stack is the memory
    at register sp). `register` is the index of the field in `struct pt_regs` of bpf/include; 0 when kind is "none".
    """

    kind: Literal["none", "register", "memory"] = "none"
    register: int = 0
    offset: int = 0


NOWHERE = Location()


@dataclass(frozen=True, slots=True)
class Alternative:
    """Functions that do the same thing and take their arguments in the same places.

    `parameter`: of inlined copies, the parameter that is the argument; debug information tells where it lies.
    """

    symbols: tuple[str, ...]
    when: tuple[str, ...] = ()
    context: Location = NOWHERE
    n_tokens: Location = NOWHERE
    argument: Location = NOWHERE
    parameter: str | None = None


@dataclass(frozen=True, slots=True)
class RoleProbes:
    """What is probed for one role; of the first alternative that a file has functions for, all are.

    `ends_at_jump`: a tail jump ends the call, whatever the function that it goes to does. `each_token`: called so often
    that its end is looked for where a probe is cheaper than on a `ret`. `level`: what functions of several levels tell
    of is the same, and one level is probed in a process: the lowest that is called there.
    `inlined`: of the functions' inlined copies, which debug information knows; not where a file names one of `unless`.
    """

    role: str
    action: SetAction
    alternatives: tuple[Alternative, ...]
    ends_at_jump: bool = False
    each_token: bool = False
    level: int = 0
    inlined: bool = False
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """Functions (`names`, as of FunctionRole) that a matrix of one of the `types` is multiplied by, once for so many of
    its rows when there is one token.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows_a_call: int


@dataclass(frozen=True, slots=True)
class FunctionRole:
    """What functions are for: `role` in a word or two, `explain` in a line, `names` as patterns (engines/roles.py).

    `files`: patterns of files whose functions are for it where no name says more. `build`: how a build gets functions
    of this role that have a name.
    """

    role: str
    explain: str
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    build: str | None = None


@dataclass(frozen=True, slots=True)
class CodeShape:
    """Machine code that functions without names are recognised by: `name` is said of them then ("like I2_S").

    `has`: regular expressions, each of some instruction ("vpsrlw ymm1, ymm2, 4"); `lacks`: of none.
    """

    name: str
    has: tuple[re.Pattern[str], ...]
    lacks: tuple[re.Pattern[str], ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """One file of probes/, with what it takes from the file that it extends."""

    name: str
    engine: str | None
    extends: str | None
    markers: tuple[str, ...]
    symbols: tuple[str, ...]
    strings: tuple[str, ...]
    probes: tuple[RoleProbes, ...]
    functions: tuple[FunctionRole, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    shapes: tuple[CodeShape, ...] = ()


def load_probe_sets(folder: Path | None = None) -> tuple[ProbeSet, ...]:
    """All probe sets, special ones before what they extend: the first that recognises a file is the best.

    Raises TraceError naming the file and what is wrong in it.
    """
    folder = folder or probes_dir()
    texts = {path.stem: path.read_text() for path in sorted(folder.glob("*.toml"))}
    if not texts:
        raise TraceError(f"no probe files in {folder}", "reinstall bitnet-trace")
    parsed = {name: parse_probe_set(name, text) for name, text in texts.items()}
    return tuple(
        sorted((_extended(one, parsed) for one in parsed.values()), key=lambda one: (not one.extends, one.name))
    )


def parse_probe_set(name: str, text: str) -> ProbeSet:
    """One TOML text as a probe set; `extends` is noted, not applied. Raises TraceError."""
    try:
        table = tomllib.loads(text)
        recognise = _table(table, "recognise", {"markers", "symbols", "strings"})
        _only(table, {"engine", "extends", "recognise", "probe", "function", "code", "kernel"})
        return ProbeSet(
            name=name,
            engine=_optional_text(table, "engine"),
            extends=_optional_text(table, "extends"),
            markers=_texts(recognise, "markers"),
            symbols=_texts(recognise, "symbols"),
            strings=_texts(recognise, "strings"),
            probes=tuple(_role_probes(entry) for entry in table.get("probe", [])),
            functions=tuple(_function_role(entry) for entry in table.get("function", [])),
            kernels=tuple(_kernel(entry) for entry in table.get("kernel", [])),
            shapes=tuple(_code_shape(entry) for entry in table.get("code", [])),
        )
    except (tomllib.TOMLDecodeError, ValueError, TypeError, re.error) as error:
        raise TraceError(f"probes/{name}.toml: {error}", "the format is described in probes/llama.toml") from None


def parse_location(text: str) -> Location:
    """ "rdi" or "u32 at rsi+4" as a Location. Raises ValueError."""
    match = _LOCATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is neither a register nor "u32 at REGISTER+OFFSET"')
    name = match["register"] or match["base"]
    field = _SHORT_NAMES.get(name, name)
    if field not in pt_regs_fields():
        raise ValueError(f'"{name}" is no 64-bit register')
    index = pt_regs_fields().index(field)
    if match["register"]:
        return Location("register", index)
    return Location("memory", index, int(match["offset"]))


@functools.cache
def pt_regs_fields() -> tuple[str, ...]:
    """The fields of `struct pt_regs` in order, read from the header that the BPF programs are compiled with."""
    text = (bpf_dir() / "include/include/uapi/linux/ptrace.h").read_text()
    declarations = re.findall(r"unsigned long ([\w, ]+);", text)
    return tuple(name.strip() for declaration in declarations for name in declaration.split(","))


def _role_probes(entry: Mapping[str, Any]) -> RoleProbes:
    _only(entry, {"role", "action", "alternatives", "level", "unless", *_SWITCHES})
    role, action = entry.get("role"), entry.get("action")
    if not isinstance(role, str) or role.upper() not in Role.__members__:
        raise ValueError(f"unknown role {role!r}")
    if action not in _ACTIONS:
        raise ValueError(f"role {role}: action must be one of {', '.join(_ACTIONS)}")
    alternatives = tuple(_alternative(role, one) for one in entry.get("alternatives", []))
    if not alternatives:
        raise ValueError(f"role {role}: no alternatives")
    switches = {name: entry.get(name, False) for name in _SWITCHES}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"role {role}: {name} must be true or false")
    level = entry.get("level", 0)
    if not isinstance(level, int) or isinstance(level, bool):
        raise ValueError(f"role {role}: level must be a number")
    if switches["inlined"] and action != "window":
        raise ValueError(f"role {role}: inlined copies are probed in windows only")
    return RoleProbes(role, action, alternatives, level=level, unless=_texts(entry, "unless"), **switches)


def _kernel(entry: Mapping[str, Any]) -> Kernel:
    _only(entry, {"names", "types", "rows_a_call"})
    names, types, rows = _texts(entry, "names"), _texts(entry, "types"), entry.get("rows_a_call", 1)
    if not names or not types or not isinstance(rows, int) or rows < 1:
        raise ValueError("a kernel needs names and types, and rows_a_call is a number")
    return Kernel(names, types, rows)


def _function_role(entry: Mapping[str, Any]) -> FunctionRole:
    _only(entry, {"role", "explain", "names", "files", "build"})
    role, explain = _optional_text(entry, "role"), _optional_text(entry, "explain")
    names, files = _texts(entry, "names"), _texts(entry, "files")
    if not role or not explain or not (names or files):
        raise ValueError("a function needs role, explain, and names or files")
    return FunctionRole(role, explain, names, files, _optional_text(entry, "build"))


def _code_shape(entry: Mapping[str, Any]) -> CodeShape:
    _only(entry, {"name", "has", "lacks"})
    name = _optional_text(entry, "name")
    has, lacks = (tuple(re.compile(text, re.MULTILINE) for text in _texts(entry, key)) for key in ("has", "lacks"))
    if not name or not has:
        raise ValueError("code needs name and has")
    return CodeShape(name, has, lacks)


def _alternative(role: str, entry: Mapping[str, Any]) -> Alternative:
    places = ("context", "n_tokens", "argument")
    _only(entry, {"symbols", "when", "parameter", *places})
    symbols = _texts(entry, "symbols")
    if not symbols or not all(symbols):
        raise ValueError(f"role {role}: an alternative without symbols")
    located = {place: parse_location(entry[place]) for place in places if place in entry}
    return Alternative(symbols, _texts(entry, "when"), parameter=_optional_text(entry, "parameter"), **located)


def _extended(one: ProbeSet, parsed: Mapping[str, ProbeSet]) -> ProbeSet:
    if one.extends is None:
        return one
    base = parsed.get(one.extends)
    if base is None or base.extends is not None:
        raise TraceError(
            f"probes/{one.name}.toml extends {one.extends!r}, which is no base file", "name one of probes/"
        )
    own = {probes.role for probes in one.probes}
    inherited = tuple(probes for probes in base.probes if probes.role not in own)
    return replace(one, probes=one.probes + inherited)


def _table(table: Mapping[str, Any], key: str, known: set[str]) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a table")
    _only(value, known)
    return value


def _only(table: Mapping[str, Any], known: set[str]) -> None:
    """A misspelt key would be ignored in silence otherwise."""
    if unknown := set(table) - known:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} must be a list of strings")
    return tuple(value)


def _optional_text(table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value
