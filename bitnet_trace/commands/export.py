"""`bitnet-trace export`: a recording in the form of other programs."""

from pathlib import Path

import click

from bitnet_trace.commands.files import refuse_existing, write_new
from bitnet_trace.errors import TraceError


@click.command(short_help="Stacks for flame graphs.")
@click.argument("recording", metavar="REC", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["folded", "flamegraph"]),
    required=True,
    help="folded: a line per stack, for other programs; flamegraph: an HTML page.",
)
@click.option("--off-cpu", is_flag=True, help="Time off the CPU, of waits of 0.2 ms and more, in place of time on it.")
@click.option("--phase", help="Of this phase only: load, prefill, decode, ...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not standard output."
)
@click.option("--force", is_flag=True, help="Replace the file of -o if it exists.")
def export(recording: Path, form: str, off_cpu: bool, phase: str | None, output: Path | None, force: bool) -> None:
    """Give what a recording knows to other programs.

    Weights are microseconds. Stacks of time on the CPU are phase, role and function where the program's own stacks are
    not complete (built without frame pointers).

    \b
    Examples:
      bitnet-trace export llama-cli.btrace --to flamegraph --phase decode -o decode.html
      bitnet-trace export llama-cli.btrace --to folded --off-cpu | sort -k2 -n | tail
    """
    refuse_existing(output, force)
    text = _exported(recording, form, off_cpu, phase)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_new(output, text, force)


def _exported(path: Path, form: str, off_cpu: bool, phase: str | None) -> str:
    from bitnet_trace.analysis import stacks
    from bitnet_trace.analysis.phases import name_phases
    from bitnet_trace.analysis.profile import profile
    from bitnet_trace.recording.reader import open_recording
    from bitnet_trace.render import flame, folded

    recording = open_recording(path)
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
    what = "Waits of 0.2 ms and more" if off_cpu else "Time on the CPU, sampled"
    complete = "-" if found is None or found.complete_pct is None else f"{found.complete_pct:.1f} %"
    title = f"{path.name}: {'off' if off_cpu else 'on'} CPU, {phase or 'all phases'}"
    return flame.render(weighed, title, f"{what}, summed over threads. Complete stacks: {complete}.")
