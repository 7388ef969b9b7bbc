"""`bitnet-trace probes`: what would be probed in a program and its libraries, where, and at what cost."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bitnet_trace.capture import calibration
from bitnet_trace.capture.identity import calling_user
from bitnet_trace.capture.parser import Parser
from bitnet_trace.engines.found import engine_of, missing_roles
from bitnet_trace.engines.inventory import FoundFunction, Inventory
from bitnet_trace.engines.libraries import Links, linked_files, open_binary
from bitnet_trace.engines.probes import Location, ProbeSet, load_probe_sets
from bitnet_trace.engines.resolve import Probe, Resolution
from bitnet_trace.errors import TraceError
from bitnet_trace.render import probe_tables
from bitnet_trace.render.console import console
from bitnet_trace.render.probe_tables import File, Missing, Survey

_EXPORT_THEM = "shared libraries (BUILD_SHARED_LIBS=ON), -rdynamic, or no -s and no strip"


@click.command()
@click.argument("binary", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every function, where the text shows a few.")
def probes(binary: str | None, as_json: bool) -> None:
    """Show what would be probed in BINARY and the libraries that it needs, and what their functions are for.

    For each role that is probed (load, decode, ...): the function, where it lies in its file, the instruction there and
    what a hit of it costs. For each role that samples are summed by (hot kernel, barrier, ...): the functions, and what
    kind of symbol names them: exported, local, a compiler's clone, inlined, in another library. For roles without a
    function: why, and how a build gets one. BINARY is a program, looked up in PATH, or a shared library, a Python
    extension for instance. Without it, the known roles and the functions that are looked for.

    \b
    Examples:
      bitnet-trace probes
      bitnet-trace probes ./build/bin/llama-cli
      bitnet-trace probes venv/lib/python3.11/site-packages/xllamacpp/xllamacpp.abi3.so
      bitnet-trace probes llama-server --json | jq '.files[].functions[] | select(.role == "hot kernel")'
    """
    sets = load_probe_sets()
    screen = console()
    if binary is None:
        if as_json:
            click.echo(json.dumps({"sets": [_set_as_json(one) for one in sets]}, indent=2))
        else:
            probe_tables.print_sets(screen, sets)
        return
    found = _survey(binary)
    if as_json:
        click.echo(json.dumps({**_as_json(found), "hit_ns": calibration.cached()}, indent=2))
    else:
        probe_tables.print_survey(screen, found)
        measured = calibration.sentence(calibration.cached())
        click.echo(f"Measured here: {measured}." if measured else "Not measured here yet: sudo bitnet-trace doctor")


def _survey(binary: str) -> Survey:
    """What is in the files, read by a process without root."""
    path = _find_binary(binary)
    parser = Parser(calling_user(os.environ, as_root=False) if os.geteuid() == 0 else None)

    def links_of(file_path: Path) -> Links:
        with open_binary(file_path) as file:
            return parser.links(file, str(file_path))

    try:
        linked = linked_files(path, links_of=links_of)
        resolved = {one: _resolution(parser, one) for one in linked.files}
        engine = engine_of(resolved.values())
        files = [File(one, found, _inventory(parser, one, engine, found)) for one, found in resolved.items()]
    finally:
        parser.close()
    stripped = any(file.inventory.stripped for file in files if file.resolution.engine)
    missing = [
        Missing(role, reason, _EXPORT_THEM if stripped else None) for role, reason in missing_roles(resolved.values())
    ]
    return Survey(binary, engine, files, missing, _without_function(files), linked.not_found)


def _resolution(parser: Parser, path: Path) -> Resolution:
    with open_binary(path) as file:
        answer = parser.resolve(file, str(path))
    places = ("context", "n_tokens", "argument")
    answer["probes"] = [
        Probe(**{**probe, **{place: Location(**probe[place]) for place in places}}) for probe in answer["probes"]
    ]
    return Resolution(**answer)


def _inventory(parser: Parser, path: Path, engine: str | None, resolution: Resolution) -> Inventory:
    with open_binary(path) as file:
        answer = parser.inventory(file, str(path), engine, resolution.engine is not None)
    answer["functions"] = [FoundFunction(**function) for function in answer["functions"]]
    return Inventory(**answer)


def _without_function(files: list[File]) -> list[Missing]:
    """The roles that none of the engine's files has a function of its own for."""
    of_engine = [file.inventory for file in files if file.inventory.roles]
    builds = {role: build for one in of_engine for role, build in one.roles}
    functions = [function for one in of_engine for function in one.functions if function.kind != "PLT"]
    standing = {function.role for function in functions if function.kind not in ("inlined", "by its code")}
    copies = {function.role for function in functions if function.kind == "inlined"}
    guessed = {function.role for function in functions if function.kind == "by its code"}
    missing = []
    for role, build in builds.items():
        if role in standing:
            continue
        if role in copies:
            reason, general = "inlined only", "-fno-inline, or noinline in the source"
        elif role in guessed:
            reason, general = "no name, recognised by its code", "no -s, no strip"
        elif any(one.stripped for one in of_engine):
            reason, general = "the file is stripped", "no -s, no strip"
        elif not all(one.debug_information for one in of_engine):
            reason, general = (
                "no such name; it may have been inlined",
                "-g would tell (CMAKE_BUILD_TYPE=RelWithDebInfo)",
            )
        else:
            reason, general = "no such name, inlined or not", None
        missing.append(Missing(role, reason, "; ".join(text for text in (general, build) if text) or None))
    return missing


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


def _as_json(found: Survey) -> dict[str, Any]:
    return {
        "binary": found.binary,
        "engine": found.engine,
        "files": [
            {
                "path": str(file.path),
                "engine": file.resolution.engine,
                "build_id": file.resolution.build_id,
                "stripped": file.inventory.stripped,
                "debug_information": file.inventory.debug_information,
                "probes": [asdict(probe) for probe in file.resolution.probes],
                "doubts": [{"role": role, "text": text} for role, text in file.resolution.doubts],
                "functions": [asdict(function) for function in file.inventory.functions],
                "functions_not_listed": file.inventory.not_listed,
            }
            for file in found.files
            if file.resolution.probes or file.resolution.engine or file.inventory.functions
        ],
        "missing": [asdict(one) for one in found.missing],
        "functions_missing": [asdict(one) for one in found.without_function],
        "libraries_not_found": list(found.not_found),
    }


def _set_as_json(one: ProbeSet) -> dict[str, Any]:
    shapes = [
        {"name": shape.name, "has": [x.pattern for x in shape.has], "lacks": [x.pattern for x in shape.lacks]}
        for shape in one.shapes
    ]
    return {**asdict(ProbeSet(**{**_fields(one), "shapes": ()})), "shapes": shapes}


def _fields(one: ProbeSet) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ProbeSet.__dataclass_fields__}
