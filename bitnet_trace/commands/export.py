"""`bitnet-trace export`: a recording in the form of other programs."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_trace.commands.files import refuse_existing, write_chunks
from bitnet_trace.errors import TraceError

if TYPE_CHECKING:
    from bitnet_trace.analysis.report import Report
    from bitnet_trace.recording.reader import Recording

STACKS = ("folded", "flamegraph", "speedscope")
TRACES = ("perfetto", "chrome")


@click.command(short_help="For trace viewers, flame graphs, data frames and spreadsheets.")
@click.argument("recording", metavar="REC", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice([*TRACES, *STACKS, "parquet", "csv"]),
    required=True,
    help="perfetto, chrome: threads, CPUs and phases over time; folded, flamegraph, speedscope: stacks; parquet: all "
    "tables and events; csv: one table.",
)
@click.option("--off-cpu", is_flag=True, help="Stacks of time off the CPU, of waits of 0.2 ms and more.")
@click.option("--phase", help="Stacks of this phase only: load, prefill, decode, ...")
@click.option(
    "--table", default="by_phase", show_default=True, help="Of csv: which table, by its name in the JSON output."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file (parquet: folder).")
@click.option("--force", is_flag=True, help="Replace the file of -o if it exists (parquet: the run in it).")
def export(
    recording: Path, form: str, off_cpu: bool, phase: str | None, table: str, output: Path | None, force: bool
) -> None:
    """Give what a recording knows to other programs.

    perfetto is for ui.perfetto.dev, chrome for chrome://tracing, speedscope for speedscope.app. parquet adds the
    recording to a folder TABLE/host=HOST/run=RUN/ that DuckDB, Spark and pandas read as one table for all recordings in
    it. Weights of folded stacks are microseconds; stacks of time on the CPU are phase, role and function where the
    program's own stacks are not complete (built without frame pointers).

    \b
    Examples:
      bitnet-trace export llama-cli.btrace --to perfetto -o llama-cli.pftrace
      bitnet-trace export llama-cli.btrace --to flamegraph --phase decode -o decode.html
      bitnet-trace export llama-cli.btrace --to folded --off-cpu | sort -k2 -n | tail
      bitnet-trace export llama-cli.btrace --to csv --table tokens -o tokens.csv
      for rec in *.btrace; do bitnet-trace export $rec --to parquet -o fleet; done
    """
    if form == "parquet":
        _to_parquet(recording, output, force)
        return
    refuse_existing(output, force)
    if output is None and form == "perfetto" and sys.stdout.isatty():
        raise TraceError("a Perfetto trace is no text for a terminal", "name a file with -o")
    chunks = _exported(recording, form, off_cpu, phase, table)
    if output is None:
        for chunk in chunks:
            click.echo(chunk, nl=False)
    else:
        write_chunks(output, chunks, force)


def _to_parquet(path: Path, folder: Path | None, force: bool) -> None:
    from bitnet_trace.render import parquet

    if folder is None:
        raise TraceError("parquet is a folder of files", "name it with -o")
    try:
        places = parquet.write(_report(path), folder, force)
    except OSError as error:
        raise TraceError(f"cannot write {folder}: {error.strerror}", "choose another place with -o") from None
    click.echo(f"{len(places)} tables in {folder}", err=True)


def _exported(path: Path, form: str, off_cpu: bool, phase: str | None, table: str) -> Iterable[bytes]:
    from bitnet_trace.recording.reader import open_recording

    if form in STACKS:
        return [_stacks(open_recording(path), form, off_cpu, phase).encode("utf-8", "backslashreplace")]
    if form == "csv":
        return [_csv(_report(path), table).encode("utf-8", "backslashreplace")]
    from bitnet_trace.analysis.trace import trace
    from bitnet_trace.render import chrome, perfetto

    seen = trace(_report(path))
    return perfetto.chunks(seen) if form == "perfetto" else chrome.chunks(seen)


def _report(path: Path) -> "Report":
    from bitnet_trace.analysis.report import build_report
    from bitnet_trace.recording.reader import open_recording

    return build_report(open_recording(path), may_fork=True)


def _csv(report: "Report", name: str) -> str:
    from bitnet_trace.analysis.tidy import tidy
    from bitnet_trace.render import csv

    tables = tidy(report)
    if name not in tables:
        raise TraceError(f"no table {name}", f"tables: {', '.join(tables)}")
    return csv.render(tables[name])


def _stacks(recording: "Recording", form: str, off_cpu: bool, phase: str | None) -> str:
    from bitnet_trace.analysis import stacks
    from bitnet_trace.analysis.phases import name_phases
    from bitnet_trace.analysis.profile import profile
    from bitnet_trace.render import flame, folded, speedscope

    path = recording.path
    phases = name_phases(recording.phases)
    known = sorted(set(phases["name"].astype(str)))
    if phase is not None and phase not in known:
        raise TraceError(f"{path} has no phase {phase}", f"it has {', '.join(known)}" if known else "record again")
    found = profile(recording, phases)
    off, on = (recording, phases, phase), (recording, phases, found, phase)
    weighed = stacks.off_cpu(*off) if off_cpu else stacks.on_cpu(*on)
    if not weighed:
        raise TraceError(f"{path} has no such stacks", "record with --sample-freq 99")
    if form == "folded":
        return folded.render(weighed)
    title = f"{path.name}: {'off' if off_cpu else 'on'} CPU, {phase or 'all phases'}"
    if form == "speedscope":
        return speedscope.render(weighed, title)
    what = "Waits of 0.2 ms and more" if off_cpu else "Time on the CPU, sampled"
    complete = "-" if found is None or found.complete_pct is None else f"{found.complete_pct:.1f} %"
    return flame.render(weighed, title, f"{what}, summed over threads. Complete stacks: {complete}.")
