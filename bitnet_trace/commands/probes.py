"""`bitnet-trace probes`: what would be probed in a program and its libraries, where, and at what cost."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bitnet_trace.engines.found import engine_of, missing_roles
from bitnet_trace.engines.libraries import linked_files, open_binary
from bitnet_trace.engines.probes import Location, ProbeSet, load_probe_sets, pt_regs_fields
from bitnet_trace.engines.resolve import Probe, Resolution, resolve
from bitnet_trace.errors import TraceError
from bitnet_trace.printable import printable
from bitnet_trace.render.console import console

_COSTS = (
    "Cost of one hit: nop 0.2 µs (Linux 6.18 or newer), emulated 0.4 to 1 µs, single-step 1 to 3 µs on bare metal and "
    "up to 20 µs in a virtual machine."
)
_NO_ENGINE = (
    "No engine in this file or the libraries that it needs. A library that is loaded later (by Python, as a plug-in) "
    "is probed when that happens; to see its probes, name the library itself."
)


@click.command()
@click.argument("binary", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probes(binary: str | None, as_json: bool) -> None:
    """Show what would be probed in BINARY and the libraries that it needs.

    For each role (load, decode, ...): the function, where it lies in its file, the instruction there and what a hit
    of it costs; and which roles have nothing to probe, and why. BINARY is a program, looked up in PATH, or a shared
    library, a Python extension for instance. Without it, the known roles and the functions that are looked for.

    \b
    Examples:
      bitnet-trace probes
      bitnet-trace probes ./build/bin/llama-cli
      bitnet-trace probes venv/lib/python3.11/site-packages/xllamacpp/xllamacpp.abi3.so
      bitnet-trace probes llama-server --json | jq '.files[].probes[].symbol'
    """
    sets = load_probe_sets()
    screen = console()
    if binary is None:
        if as_json:
            click.echo(json.dumps({"sets": [asdict(one) for one in sets]}, indent=2))
        else:
            _print_sets(screen, sets)
        return
    linked = linked_files(_find_binary(binary))
    resolved: list[tuple[Path, Resolution]] = []
    for path in linked.files:
        with open_binary(path) as file:
            resolved.append((path, resolve(file, str(path), sets)))
    if as_json:
        click.echo(json.dumps(_as_json(binary, resolved, linked.not_found), indent=2))
    else:
        _print_resolved(screen, binary, resolved, linked.not_found)


def _find_binary(binary: str) -> Path:
    if not binary:
        raise TraceError("the name of the file is empty", "give a path, or a program that is in PATH")
    path = Path(binary)
    if not path.exists() and "/" not in binary:
        path = Path(shutil.which(binary) or binary)
    if not path.exists():
        raise TraceError(f"no such file: {binary}", "give a path, or a program that is in PATH")
    with open_binary(path) as file:
        if file.read(2) == b"#!":
            raise TraceError(f"{binary} is a script", "give the program that it starts, or the library that it loads")
    return path


def _as_json(binary: str, resolved: list[tuple[Path, Resolution]], not_found: tuple[str, ...]) -> dict[str, Any]:
    resolutions = [resolution for _, resolution in resolved]
    return {
        "binary": binary,
        "engine": engine_of(resolutions),
        "files": [
            {
                "path": str(path),
                "engine": resolution.engine,
                "build_id": resolution.build_id,
                "probes": [asdict(probe) for probe in resolution.probes],
                "doubts": [{"role": role, "text": text} for role, text in resolution.doubts],
            }
            for path, resolution in resolved
            if resolution.probes or resolution.engine
        ],
        "missing": [{"role": role, "reason": reason} for role, reason in missing_roles(resolutions)],
        "libraries_not_found": list(not_found),
    }


def _print_resolved(
    screen: Console, binary: str, resolved: list[tuple[Path, Resolution]], not_found: tuple[str, ...]
) -> None:
    resolutions = [resolution for _, resolution in resolved]
    engine = engine_of(resolutions)
    screen.print(f"[bold]{escape(printable(binary))}[/]: {engine or 'no engine recognised'}")
    for path, resolution in resolved:
        if resolution.probes:
            screen.print(_probe_table(path, resolution.probes))
    for _, resolution in resolved:
        for role, text in resolution.doubts:
            screen.print(f"{role}: {escape(text)}; the call may be seen to end only at the next one")
    for role, reason in missing_roles(resolutions):
        screen.print(f"[yellow]not probed[/]  {role}: {escape(reason)}")
    for name in not_found:
        screen.print(f"[yellow]not found[/]   {escape(printable(name))} (set LD_LIBRARY_PATH as the program has it)")
    screen.print(_NO_ENGINE if engine is None else _COSTS)


def _probe_table(path: Path, rows: list[Probe]) -> Table:
    table = Table(
        title=escape(printable(str(path))), title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for column in ("role", "at", "function", "file offset", "instruction", "cost", "reads"):
        table.add_column(column, justify="right" if column == "file offset" else "left", overflow="fold")
    for probe in rows:
        function = probe.symbol.partition("(")[0] if not probe.symbol.startswith("(") else probe.symbol
        table.add_row(
            probe.role,
            probe.action,
            escape(printable(function)),
            f"{probe.file_offset:#x}",
            escape(probe.instruction),
            probe.cost_class,
            _reads(probe),
        )
    return table


def _reads(probe: Probe) -> str:
    named = (("context", probe.context), ("n_tokens", probe.n_tokens), ("argument", probe.argument))
    return ", ".join(f"{name}={_place(place)}" for name, place in named if place.kind != "none")


def _place(place: Location) -> str:
    field = pt_regs_fields()[place.register]
    register = field if field.startswith("r") else f"r{field}"
    return register if place.kind == "register" else f"u32 at {register}+{place.offset}"


def _print_sets(screen: Console, sets: tuple[ProbeSet, ...]) -> None:
    for one in sets:
        extends = f", and what {one.extends}.toml has besides" if one.extends else ""
        screen.print(f"[bold]{one.engine or one.name}[/] (probes/{one.name}.toml{extends})")
        table = Table(box=None, pad_edge=False)
        for column in ("role", "action", "functions, in order of preference"):
            table.add_column(column, overflow="fold")
        base = next((other.probes for other in sets if other.name == one.extends), ())
        for role in one.probes:
            if role not in base:
                choices = dict.fromkeys(", ".join(alternative.symbols) for alternative in role.alternatives)
                table.add_row(role.role, role.action, escape(" | ".join(choices)))
        if table.row_count:
            screen.print(table)
        screen.print()
