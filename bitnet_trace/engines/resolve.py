"""From a file to its probes: which engine it is, where each role's functions begin and return, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

from bitnet_trace.engines import code, placement
from bitnet_trace.engines.code import CostClass
from bitnet_trace.engines.copies import copies_of
from bitnet_trace.engines.elf import Elf, Symbol
from bitnet_trace.engines.ends import End, cheap_ends
from bitnet_trace.engines.names import matches, needle, pretty
from bitnet_trace.engines.probes import NOWHERE, Alternative, Location, ProbeSet, RoleProbes, pt_regs_fields
from bitnet_trace.engines.tensor_layout import TensorLayout, tensor_layout

Action = Literal["begin", "end", "mark", "tokens", "window", "window_end"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One instruction to put a uprobe on; `code` is its bytes in hexadecimal.

    `symbol` is the function that the role's pattern found, demangled; an "end" may lie in a function that it
    tail-jumps to. `file_offset` is what perf_event_open takes. At every probe the stack pointer plus `sp_offset` is
    what it was at the function's entry, where it points to the return address. `condition`: the code of the one that
    has to hold for the hit to count, as in conditional jumps; -1: none. `level` is that of RoleProbes. `wanted`: the
    pattern that asked for a probe of the role "function".
    """

    role: str
    action: Action
    symbol: str
    file_offset: int
    instruction: str
    code: str
    cost_class: CostClass
    context: Location = NOWHERE
    n_tokens: Location = NOWHERE
    argument: Location = NOWHERE
    sp_offset: int = 0
    condition: int = -1
    level: int = 0
    wanted: str | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one file has.

    `engine` is None for files that no probe set recognises. `missing` gives (role, reason) for the roles of the set
    that nothing is probed for in this file, `doubts` (role, text) for calls whose return may not be seen. `layout`: of
    the engine's tensors, where operations were asked for and this file tells.
    """

    engine: str | None = None
    probes: list[Probe] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    build_id: str | None = None
    layout: TensorLayout | None = None

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are probed in this file."""
        return frozenset(probe.role for probe in self.probes)


def resolve(
    file: BinaryIO, path: str, probe_sets: Sequence[ProbeSet], functions: Sequence[str] = (), operations: bool = False
) -> Resolution:
    """The probes of one x86-64 ELF file.

    `file` is an open binary file, read here and left open; `path` serves messages only. The probe sets are those of
    `load_probe_sets`, in its order; `functions`: patterns of others, whose calls are to be counted in windows;
    `operations`: the graph's operations are probed too. A file that no set knows gives an empty Resolution. Raises
    TraceError for what is no such file, or a damaged one.
    """
    elf = Elf(file, path)
    layout = tensor_layout(elf) if operations else None
    engine_set = _recognise(elf, probe_sets)
    found = [one for one in (engine_set, *_support_sets(elf, probe_sets)) if one is not None]
    if not found and not functions:
        return Resolution(layout=layout)
    roles = [probes for one in found for probes in one.probes if operations or probes.role != "operation"]
    wanted = [symbol for probes in roles for alternative in probes.alternatives for symbol in alternative.symbols]
    known = elf.functions_containing(needle(symbol) for symbol in [*wanted, *functions])
    resolution = Resolution(engine=engine_set.engine if engine_set else None, build_id=elf.build_id, layout=layout)
    for probes in roles:
        _resolve_role(elf, probes, known, resolution)
    for pattern in functions:
        _resolve_function(elf, pattern, known, resolution)
    return resolution


def _resolve_function(elf: Elf, pattern: str, known: Sequence[Symbol], resolution: Resolution) -> None:
    """A probe in each function that the pattern means, and where it returns, to time it.

    Template instances and the like count together.
    """
    asked = RoleProbes("function", "window", (Alternative((pattern,)),))
    chosen = _choose(elf, asked, known)
    for function in chosen[1] if chosen else ():
        found = _window_probe(elf, asked, function, asked.alternatives[0])
        if isinstance(found, Probe):
            resolution.probes.append(replace(found, wanted=pattern))
            resolution.probes.extend(
                replace(end, action="window_end", wanted=pattern) for end in _window_ends(elf, asked, function)
            )
        else:
            resolution.doubts.append(("function", found))


def _window_ends(elf: Elf, asked: RoleProbes, function: Symbol) -> list[Probe]:
    """A probe on each place that a call passes when it returns; empty where one cannot be placed or is not known."""
    exits = code.find_exits(elf, function, _cold_parts(elf, function), asked.ends_at_jump)
    ends = _end_probes(elf, replace(asked, each_token=True), function, exits)
    return [] if exits.doubts else [end for end in ends if isinstance(end, Probe)]


def _recognise(elf: Elf, probe_sets: Sequence[ProbeSet]) -> ProbeSet | None:
    for one in probe_sets:
        if one.engine is None:
            continue
        marked = any(elf.mentions(marker.encode()) for marker in one.markers)
        if marked and elf.names_any(one.symbols):
            return one
        # A stripped program still holds its texts: it is named, and what is missing can be said.
        if (marked or _is_stripped_program(elf)) and elf.holds_text(text.encode() for text in one.strings):
            return one
    return None


def _is_stripped_program(elf: Elf) -> bool:
    return elf.stripped and (elf.interpreter is not None or not elf.needed)


def _support_sets(elf: Elf, probe_sets: Sequence[ProbeSet]) -> list[ProbeSet]:
    """Sets without an engine, for what every program has (the dynamic linker)."""
    return [
        one for one in probe_sets if one.engine is None and any(elf.mentions(text.encode()) for text in one.markers)
    ]


def _resolve_role(elf: Elf, probes: RoleProbes, functions: Sequence[Symbol], resolution: Resolution) -> None:
    if probes.inlined:
        _resolve_inlined(elf, probes, resolution)
        return
    chosen = _choose(elf, probes, functions)
    if chosen is None:
        resolution.missing.append((probes.role, _why_missing(elf, probes)))
        return
    alternative, own = chosen
    resolved: dict[tuple[int, Action], Probe] = {}
    problems: list[str] = []
    for function in own:
        if probes.action == "call":
            found = _call_probes(elf, probes, function, alternative, resolution.doubts)
        elif probes.action == "window":
            found = [_window_probe(elf, probes, function, alternative)]
        else:
            found = [_probe(elf, probes.role, probes.action, function, function.address, alternative)]
        problems.extend(problem for problem in found if isinstance(problem, str))
        for probe in found:
            if isinstance(probe, Probe):
                resolved.setdefault((probe.file_offset, probe.action), probe)
    resolution.probes.extend(resolved.values())
    if not resolved:
        resolution.missing.extend((probes.role, problem) for problem in problems[:1])


def _call_probes(
    elf: Elf, probes: RoleProbes, function: Symbol, places: Alternative, doubts: list[tuple[str, str]]
) -> Sequence[Probe | str]:
    """A "begin" at the function's entry and an "end" at each exit, or why there can be none; adds to `doubts`."""
    role = probes.role
    begin = _probe(elf, role, "begin", function, function.address, places)
    if isinstance(begin, str):
        return [begin]
    exits = code.find_exits(elf, function, _cold_parts(elf, function), probes.ends_at_jump)
    if exits.addresses == {function.address}:
        return [f"{pretty(function.name)} is only a jump to another function"]
    ends = _end_probes(elf, probes, function, exits)
    exits.doubts.extend(end for end in ends if isinstance(end, str))
    doubts.extend((role, f"{pretty(function.name)}: {doubt}") for doubt in exits.doubts)
    return [begin, *(end for end in ends if isinstance(end, Probe))]


def _end_probes(elf: Elf, probes: RoleProbes, function: Symbol, exits: code.Exits) -> list[Probe | str]:
    found: list[Probe | str] = []
    own = [function, *_cold_parts(elf, function)] if probes.each_token else []
    parts = [list(code.instructions(elf, part.address, part.size)) for part in own]
    for address in sorted(exits.addresses):
        places = cheap_ends(elf, parts, address) or [End(address, -1, 0)]
        for place in places:
            probe = _probe(elf, probes.role, "end", function, place.address, Alternative(()))
            if isinstance(probe, Probe):
                probe = replace(probe, condition=place.condition, sp_offset=place.sp_offset)
            found.append(probe)
    return found


def _resolve_inlined(elf: Elf, probes: RoleProbes, resolution: Resolution) -> None:
    """A probe in each inlined copy, or none at all: with some of them counts would be too small."""
    if elf.names_any(probes.unless) or not elf.holds_debug_text(probes.alternatives[0].symbols):
        return
    found: dict[int, Probe] = {}
    wanted = [(name, one.parameter) for one in probes.alternatives for name in one.symbols]
    for name, parameter in wanted:
        copies = copies_of(elf.file, name, parameter)
        if isinstance(copies, str):
            resolution.missing.append((probes.role, f"{name}: {copies}"))
            return
        for copy in copies:
            function = elf.function_at(copy.ranges[0][0])
            if function is None:
                continue  # code that the linker left out
            place = placement.cheapest_in_copy(elf, function, _cold_parts(elf, function), copy)
            if isinstance(place, str):
                resolution.missing.append((probes.role, f"{name} inlined in {pretty(function.name)}: {place}"))
                return
            text = f"{name} inlined in {pretty(function.name)}"
            register = copy.register_at(place.address)
            if parameter and register is None:
                resolution.missing.append((probes.role, f"{text}: its `{parameter}` lies in no register there"))
                return
            argument = Location("register", pt_regs_fields().index(register)) if register else NOWHERE
            found[place.address] = _placed(elf, probes, text, place, argument)
    resolution.probes.extend(found.values())


def _window_probe(elf: Elf, probes: RoleProbes, function: Symbol, places: Alternative) -> Probe | str:
    """The probe that costs least of those that are hit once per call, for functions that are called very often.

    The argument is read only where its register still holds it; else it is unknown there.
    """
    wanted = _register_name(places.argument)
    found = placement.cheapest(elf, function, _cold_parts(elf, function), [wanted] if wanted else [])
    if isinstance(found, str):
        return f"{pretty(function.name)}: {found}"
    argument = places.argument if not wanted or wanted in found.intact else NOWHERE
    return _placed(elf, probes, pretty(function.name), found, argument)


def _placed(elf: Elf, probes: RoleProbes, symbol: str, place: placement.Placement, argument: Location) -> Probe:
    return Probe(
        role=probes.role,
        action="window",
        symbol=symbol,
        file_offset=elf.file_offset(place.address),
        instruction=place.instruction,
        code=place.code.hex(),
        cost_class=place.cost_class,
        argument=argument,
        sp_offset=place.sp_offset,
        level=probes.level,
    )


def _register_name(location: Location) -> str | None:
    if location.kind == "none":
        return None
    name = pt_regs_fields()[location.register]
    return None if name == "sp" else name if name.startswith("r") else f"r{name}"


def _choose(elf: Elf, probes: RoleProbes, functions: Sequence[Symbol]) -> tuple[Alternative, list[Symbol]] | None:
    """The first alternative that the file has functions for, and those, one for each address."""
    for alternative in probes.alternatives:
        own = {
            function.address: function
            for symbol in reversed(alternative.symbols)
            for function in functions
            if matches(symbol, function.name)
        }
        if own and (not alternative.when or elf.names_any(alternative.when)):
            # An old name that only jumps to the new one is the same call.
            stubs = {address for address in own if code.jump_stub_target(elf, address) in own.keys() - {address}}
            return alternative, [function for address, function in sorted(own.items()) if address not in stubs]
    return None


def _why_missing(elf: Elf, probes: RoleProbes) -> str:
    names = [symbol for alternative in probes.alternatives for symbol in alternative.symbols]
    imported = elf.names_any(names)
    if imported:
        return f"{imported} is in another library"
    listed = f"{names[0]}, …" if len(names) > 1 else names[0]
    return f"no symbol {listed}" + (" (the file is stripped)" if elf.stripped else "")


def _cold_parts(elf: Elf, function: Symbol) -> list[Symbol]:
    """Parts of a function that the compiler moved away (`f.cold`, clang: `f.cold.1`)."""
    prefix = function.name + ".cold"
    return [part for part in elf.functions_containing([prefix.encode()]) if part.name.startswith(prefix)]


def _probe(elf: Elf, role: str, action: Action, function: Symbol, address: int, places: Alternative) -> Probe | str:
    """The probe on one instruction, or why there can be none."""
    instruction = code.instruction_at(elf, address)
    if instruction is None:
        return f"{pretty(function.name)}: the code at {address:#x} cannot be decoded"
    machine_code = elf.read(address, instruction.size)
    cost = code.cost_class(machine_code)
    if cost == "refused":
        return f"{pretty(function.name)}: the kernel allows no probe on `{instruction}`"
    return Probe(
        role=role,
        action=action,
        symbol=pretty(function.name),
        file_offset=elf.file_offset(address),
        instruction=str(instruction),
        code=machine_code.hex(),
        cost_class=cost,
        context=places.context,
        n_tokens=places.n_tokens,
        argument=places.argument,
    )
