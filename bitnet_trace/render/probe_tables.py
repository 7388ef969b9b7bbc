"""What `bitnet-trace probes` prints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bitnet_trace.engines.inventory import FoundFunction, Inventory
from bitnet_trace.engines.probes import Location, ProbeSet, pt_regs_fields
from bitnet_trace.engines.resolve import Probe, Resolution
from bitnet_trace.printable import printable

_COSTS = (
    "Cost of one hit: nop 0.2 µs (Linux 6.18 or newer), emulated 0.4 to 1 µs, single-step 1 to 3 µs on bare metal and "
    "up to 20 µs in a virtual machine. Functions of roles are sampled, which costs them nothing."
)
_NO_ENGINE = (
    "No engine in this file or the libraries that it needs. A library that is loaded later (by Python, as a plug-in) "
    "is probed when that happens; to see its probes, name the library itself."
)
_FUNCTIONS_SHOWN = 3  # of a role in a file
_NAME_LIMIT = 60


@dataclass(frozen=True)
class File:
    """One file of the program."""

    path: Path
    resolution: Resolution
    inventory: Inventory


@dataclass(frozen=True)
class Missing:
    """A role that nothing was found for: why, and what a build needs to have it (None: nothing is known)."""

    role: str
    reason: str
    build: str | None


@dataclass(frozen=True)
class Survey:
    """All that was found in a program: `missing` are roles that are probed, `without_function` those of functions."""

    binary: str
    engine: str | None
    files: list[File]
    missing: list[Missing]
    without_function: list[Missing]
    not_found: Sequence[str]


def print_survey(screen: Console, found: Survey) -> None:
    screen.print(f"[bold]{escape(printable(found.binary))}[/]: {found.engine or 'no engine recognised'}")
    for file in found.files:
        if file.resolution.probes:
            screen.print(_probe_table(file.path, file.resolution.probes))
    for file in found.files:
        if file.inventory.functions and found.engine:
            screen.print(_function_table(file))
    for file in found.files:
        for role, text in file.resolution.doubts:
            screen.print(f"{role}: {escape(text)}; the call may be seen to end only at the next one")
    for one in found.missing:
        screen.print(f"[yellow]not probed[/]   {one.role}: {escape(one.reason)}")
    for advice in dict.fromkeys(one.build for one in found.missing if one.build):
        screen.print(f"             a build that has them: {escape(advice)}")
    alike: dict[tuple[str, str | None], list[str]] = {}
    for one in found.without_function:
        alike.setdefault((one.reason, one.build), []).append(one.role)
    for (reason, build), roles in alike.items():
        more = f"; a build that has it: {build}" if build else ""
        screen.print(f"[yellow]no function[/]  {', '.join(roles)}: {escape(reason + more)}")
    for name in found.not_found:
        screen.print(f"[yellow]not found[/]    {escape(printable(name))} (set LD_LIBRARY_PATH as the program has it)")
    screen.print(_NO_ENGINE if found.engine is None else _COSTS)


def print_sets(screen: Console, sets: Sequence[ProbeSet]) -> None:
    """The known roles, and the functions that are looked for."""
    for one in sets:
        extends = f", and what {one.extends}.toml has besides" if one.extends else ""
        screen.print(f"[bold]{one.engine or one.name}[/] (probes/{one.name}.toml{extends})")
        table = _table(None, ("role", "action", "functions, in order of preference"))
        base = next((other.probes for other in sets if other.name == one.extends), ())
        for role in one.probes:
            if role not in base:
                choices = dict.fromkeys(", ".join(alternative.symbols) for alternative in role.alternatives)
                table.add_row(role.role, role.action, escape(" | ".join(choices)))
        for function in one.functions:
            table.add_row(function.role, "sampled", escape(", ".join((*function.names, *function.files))))
        if table.row_count:
            screen.print(table)
        screen.print()


def _probe_table(path: Path, rows: list[Probe]) -> Table:
    table = _table(path, ("role", "at", "function", "file offset", "instruction", "cost", "reads"))
    for probe in rows:
        table.add_row(
            probe.role,
            probe.action,
            _name(probe.symbol),
            f"{probe.file_offset:#x}",
            escape(probe.instruction),
            probe.cost_class,
            _reads(probe),
        )
    return table


def _function_table(file: File) -> Table:
    """A few functions of each role: the most specific names."""
    table = _table(file.path, ("role", "function", "symbol", "file offset", "instruction", "cost"))
    counts = Counter(function.role for function in file.inventory.functions)
    for role, functions in groupby(file.inventory.functions, key=lambda function: function.role):
        shown = list(functions)[:_FUNCTIONS_SHOWN]
        for function in shown:
            table.add_row(
                role,
                _name(function.name),
                _kind(function),
                "" if function.offset is None else f"{function.offset:#x}",
                escape(function.instruction or ""),
                function.cost_class or "",
            )
        rest = counts[role] - len(shown) + file.inventory.not_listed.get(role, 0)
        if rest:
            table.add_row("", f"and {rest:,} more (--json)")
    return table


def _kind(function: FoundFunction) -> str:
    if function.kind != "inlined":
        return function.kind
    times = f" {function.copies} times" if function.copies and function.copies > 1 else ""
    return f"inlined{times}, into {_name(function.into or '')}"


def _name(symbol: str) -> str:
    """Without parameters."""
    name = symbol if symbol.startswith(("(", "[")) else symbol.partition("(")[0]
    return escape(printable(name, _NAME_LIMIT))


def _table(path: Path | None, columns: Sequence[str]) -> Table:
    title = None if path is None else escape(printable(str(path)))
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "file offset" else "left", overflow="fold")
    return table


def _reads(probe: Probe) -> str:
    named = (("context", probe.context), ("n_tokens", probe.n_tokens), ("argument", probe.argument))
    return ", ".join(f"{name}={_place(place)}" for name, place in named if place.kind != "none")


def _place(place: Location) -> str:
    field = pt_regs_fields()[place.register]
    register = field if field.startswith("r") else f"r{field}"
    return register if place.kind == "register" else f"u32 at {register}+{place.offset}"
