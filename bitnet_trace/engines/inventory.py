"""What the functions of a file are for, where they lie, and what kind of symbol names them."""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from bitnet_trace.engines import code, debug_info
from bitnet_trace.engines.code import CostClass
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.inlined import inlined_copies
from bitnet_trace.engines.names import plain, readable
from bitnet_trace.engines.probes import FunctionRole, ProbeSet
from bitnet_trace.engines.roles import known_roles, role_of
from bitnet_trace.engines.shapes import shape_of
from bitnet_trace.engines.unwind import UnwindTable

# What nobody looks for by name: the rest of an engine, and libraries as a whole.
_NOT_LISTED = frozenset({"engine", "unnamed"})
_MAX_OF_A_ROLE = 300
_MAX_DEBUG_BYTES = debug_info.MAX_BYTES

_EXACT = 1000  # longer than any pattern

_STT_FUNC, _STT_GNU_IFUNC, _STB_LOCAL = 2, 10, 0


@dataclass(frozen=True, slots=True)
class FoundFunction:
    """A function that has a role.

    `kind` of its symbol: exported; dynamic only (exported, and the file has no other names); global; local; IFUNC (at
    the address is what chooses a function at start); PLT (a jump to another library); inlined; "by its code" (a guess,
    it has no name). "clone .isra.0" and "template" are added where that is so. `offset` in the file: of its first
    instruction, of what is inlined the first copy's; `copies`: how many; `into`: where the first is.
    """

    role: str
    name: str
    kind: str
    offset: int | None
    instruction: str | None = None
    cost_class: CostClass | None = None
    copies: int | None = None
    into: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The functions of one file that have a role, in each the most specific names first.

    `roles`: (role, how to build it) of all that the file might have; `stripped`: it names exported functions only;
    `debug_information`: it tells what was inlined; `not_listed`: of roles that have very many, how many are left out.
    """

    functions: list[FoundFunction] = field(default_factory=list)
    roles: list[tuple[str, str | None]] = field(default_factory=list)
    stripped: bool = False
    debug_information: bool = False
    not_listed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Named:
    """A function's symbols in all tables."""

    mangled: str
    address: int
    kind: str


def inventory(
    file: BinaryIO, path: str, engine: str | None, recognised: bool, probe_sets: Sequence[ProbeSet]
) -> Inventory:
    """The inventory of an open ELF file of a program that has that engine, or none. Raises TraceError.

    `recognised`: the engine was recognised by this very file; of others those are looked through as a part of it whose
    symbols speak of it.
    """
    elf = Elf(file, path)
    markers = {text for one in probe_sets if one.engine for text in one.markers}
    if not recognised and not any(elf.mentions(text.encode()) for text in markers):
        engine = None
    searched = _searched(engine, probe_sets, (elf.soname or "").startswith("libc."))
    builds = {role.role: role.build for role in reversed(searched)}
    roles = list(dict.fromkeys(role.role for role in searched))
    cache = debug_info.symbol_cache(elf, file, path, _MAX_DEBUG_BYTES) if engine else None
    found = [(role, _found(elf, named, role)) for named in _defined(elf) if (role := _role(named.mangled, searched))]
    if engine:
        found += _imported(elf, searched)
    if cache is not None:
        found += _inlined(elf, cache, searched)
    elif engine and elf.stripped:
        found += _recognised(elf, path, searched)
    found.sort(key=lambda pair: (roles.index(pair[0].role), pair[1].kind == "PLT", -_specificity(*pair), pair[1].name))
    of_role = {role: [one for its, one in found if its.role == role] for role in roles}
    return Inventory(
        [one for listed in of_role.values() for one in listed[:_MAX_OF_A_ROLE]],
        [(role, builds[role]) for role in roles] if engine else [],
        elf.stripped,
        cache is not None,
        {role: len(all_) - _MAX_OF_A_ROLE for role, all_ in of_role.items() if len(all_) > _MAX_OF_A_ROLE},
    )


def _searched(engine: str | None, probe_sets: Sequence[ProbeSet], c_library: bool) -> tuple[FunctionRole, ...]:
    """What files of an engine are searched for: its own roles and those of its base; other files for a few."""
    if engine is None:
        wanted = ("OpenMP runtime", "memory") if c_library else ("OpenMP runtime",)
        return tuple(role for role in known_roles() if role.role in wanted)
    own = next(one for one in probe_sets if one.engine == engine)
    sets = [own, *(one for one in probe_sets if one.name == own.extends)]
    return tuple(role for one in sets for role in one.functions if role.role not in _NOT_LISTED)


def _role(mangled: str, searched: tuple[FunctionRole, ...]) -> FunctionRole | None:
    return role_of(readable(mangled), roles=searched)


def _specificity(role: FunctionRole, one: FoundFunction) -> int:
    name = plain(one.name)
    return max(
        (len(text) if "*" in text else _EXACT for text in role.names if fnmatch.fnmatchcase(name, text)), default=0
    )


def _defined(elf: Elf) -> Iterator[_Named]:
    """Every function of the symbol tables once."""
    kinds: dict[tuple[str, int], str] = {}
    tables = elf.symbol_tables
    for number, (symbols, strings) in enumerate(tables):
        dynamic = number == len(tables) - 1 and (len(tables) == 2 or elf.stripped)
        type_of = symbols["info"] & 15
        is_function = ((type_of == _STT_FUNC) | (type_of == _STT_GNU_IFUNC)) & (symbols["section"] != 0)
        for row in np.flatnonzero(is_function & (symbols["value"] != 0)).tolist():
            at = int(symbols["name"][row])
            name = strings[at : strings.find(b"\0", at)].decode(errors="replace").split("@")[0]
            if type_of[row] == _STT_GNU_IFUNC:
                kind = "IFUNC"
            elif dynamic:
                kind = "dynamic only" if elf.stripped else "exported"
            else:
                kind = "local" if symbols["info"][row] >> 4 == _STB_LOCAL else "global"
            kinds[name, int(symbols["value"][row])] = kind  # .dynsym comes last, and says more
    for (name, address), kind in kinds.items():
        yield _Named(name, address, kind)


def _found(elf: Elf, named: _Named, role: FunctionRole) -> FoundFunction:
    name = readable(named.mangled)
    parts = [named.kind]
    clone = named.mangled.partition(".")[2]
    if clone:
        parts.append(f"clone .{clone}")
    if "<" in name.partition("(")[0]:
        parts.append("template")
    return FoundFunction(role.role, name, ", ".join(parts), *_code_at(elf, named.address))


def _code_at(elf: Elf, address: int) -> tuple[int | None, str | None, CostClass | None]:
    """File offset, instruction and cost class; None each where the file has no code there."""
    instruction = code.instruction_at(elf, address)
    if instruction is None:
        return None, None, None
    return elf.file_offset(address), str(instruction), code.cost_class(elf.read(address, instruction.size))


def _imported(elf: Elf, searched: tuple[FunctionRole, ...]) -> Iterator[tuple[FunctionRole, FoundFunction]]:
    for address in elf.plt_entries():
        slot = code.plt_slot(elf, address)
        target = elf.slot_target(slot) if slot is not None else None
        role = _role(target[0], searched) if target and target[0] and not target[1] else None
        if target and role:
            yield role, FoundFunction(role.role, readable(target[0]), "PLT", *_code_at(elf, address))


def _recognised(
    elf: Elf, path: str, searched: tuple[FunctionRole, ...]
) -> Iterator[tuple[FunctionRole, FoundFunction]]:
    for begin, end in UnwindTable(elf).spans():
        shape = shape_of(elf, begin, end)
        name = f"[{path.rpartition('/')[2]}+{begin:#x}, {shape}]"
        role = role_of(name, roles=searched) if shape else None
        if role:
            yield role, FoundFunction(role.role, name, "by its code", *_code_at(elf, begin))


def _inlined(
    elf: Elf, cache: object, searched: tuple[FunctionRole, ...]
) -> Iterable[tuple[FunctionRole, FoundFunction]]:
    by_name: dict[str, list[tuple[int, str]]] = {}
    for copy in inlined_copies(cache, lambda name: _role(name, searched) is not None):
        by_name.setdefault(copy.name, []).append((copy.begin + elf.load_address, copy.into))
    for name, copies in by_name.items():
        role = _role(name, searched)
        address, into = copies[0]
        if role:
            place = _code_at(elf, address)
            yield role, FoundFunction(role.role, readable(name), "inlined", *place, len(copies), readable(into))
