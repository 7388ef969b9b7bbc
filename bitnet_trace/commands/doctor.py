"""`bitnet-trace doctor`: what this machine can do, and the exact fix for what it can't."""

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from bitnet_trace import host, kernel_features
from bitnet_trace.capture import calibration, delay_accounting
from bitnet_trace.errors import TraceError
from bitnet_trace.resources import bpf_dir

State = Literal["ok", "warning", "problem"]

_UPROBE_TYPE = Path("/sys/bus/event_source/devices/uprobe/type")
_TRACING = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE")
_APT = "apt-get install python3-bpfcc"
_VENV = f"{_APT} && /usr/bin/python3 -m venv --system-site-packages .venv && .venv/bin/pip install bitnet-trace"
_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "bold red")}


@dataclass(frozen=True)
class Check:
    """One line. With a problem `run` cannot work; with a warning it works and something is missing or skewed."""

    name: str
    state: State
    found: str
    purpose: str
    fix: str | None = None


@dataclass(frozen=True)
class Attempts:
    """What came of trying (kernel_features): None worked, else the reason."""

    ring_buffer: str | None
    raw_tracepoint: str | None
    uprobe: str | None
    multi_uprobe: str | None
    programs: str | None
    hardware_counter: str | None
    uprobe_costs: str | None = None


def attempt(privileged: bool) -> Attempts | None:
    """Try what a recording needs; None without the rights to."""
    if not privileged:
        return None
    target = bpf_dir() / "record.h"  # a file that is there, and that no process executes
    return Attempts(
        ring_buffer=kernel_features.ring_buffer(),
        raw_tracepoint=kernel_features.raw_tracepoint(),
        uprobe=kernel_features.uprobe(_UPROBE_TYPE, target),
        multi_uprobe=kernel_features.multi_uprobe(target),
        programs=_load_programs(),
        hardware_counter=kernel_features.hardware_counter(),
        uprobe_costs=_measure_uprobes(),
    )


def _measure_uprobes() -> str | None:
    try:
        return calibration.sentence(calibration.hit_costs())
    except OSError:
        return None  # the line above says why


def _load_programs() -> str | None:
    """Compile the BPF programs and have the kernel verify them; nothing is attached."""
    try:
        from bitnet_trace.capture import bpf, sizes

        bpf.Programs(counting=False, rings=sizes.Rings(events=1 << 16, phases=1 << 16, tasks=1 << 16)).close()
    except TraceError as error:
        return error.message
    return None


def may_trace(machine: host.Host) -> bool:
    held = machine.capabilities or ()
    return "CAP_SYS_ADMIN" in held or all(name in held for name in _TRACING)


def checks(
    machine: host.Host, bcc: host.Bcc | None, tried: Attempts | None, unsupported: str | None, demo_engine: bool
) -> list[Check]:
    """All checks, in the order in which they matter.

    `unsupported` is why capturing is refused here altogether (host.require_supported), `demo_engine` whether the
    demo's inference engine is installed.
    """
    return [
        *_system(machine, unsupported),
        _bcc(bcc),
        *_kernel(machine, tried),
        *_hardware(machine, tried),
        *_memory(machine),
        _demo(demo_engine),
    ]


def _system(machine: host.Host, unsupported: str | None) -> Iterator[Check]:
    where = f"{machine.distribution or 'Linux'}, kernel {machine.kernel or '-'}"
    purpose = "x86-64 Linux, process numbers of the host"
    if unsupported:
        yield Check(
            "system", "problem", unsupported, purpose, "run it on the host (a container: --pid=host --privileged)"
        )
    else:
        yield Check("system", "ok", where, purpose)
    if may_trace(machine):
        yield Check("privileges", "ok", "may load BPF programs", "loading and attaching BPF programs")
    else:
        missing = ", ".join(name for name in _TRACING if name not in (machine.capabilities or ()))
        yield Check(
            "privileges",
            "problem",
            f"missing {missing}",
            "loading and attaching BPF programs",
            "sudo bitnet-trace doctor",
        )
    if machine.container and not unsupported:
        yield Check(
            "container",
            "warning",
            f"looks like one ({machine.container})",
            "what limits it is not seen from inside",
            "run it on the host",
        )
    if machine.lockdown == "confidentiality":
        yield Check(
            "lockdown",
            "problem",
            "confidentiality",
            "BPF programs read kernel structures",
            "boot with lockdown=integrity, or with Secure Boot off",
        )


def _bcc(bcc: host.Bcc | None) -> Check:
    purpose = "compiles the BPF programs"
    if bcc is None:
        return Check("BCC", "problem", f"not importable by {host.python()}", purpose, _VENV)
    if not bcc.genuine:
        return Check(
            "BCC", "problem", f"{bcc.folder} is another package of that name", purpose, f"pip uninstall bcc && {_VENV}"
        )
    return Check("BCC", "ok", f"{bcc.version or '-'} in {bcc.folder}", purpose)


def _kernel(machine: host.Host, tried: Attempts | None) -> Iterator[Check]:
    if machine.btf:
        yield Check("BTF", "ok", "/sys/kernel/btf/vmlinux", "offsets in kernel structures")
    else:
        yield Check(
            "BTF",
            "problem",
            "/sys/kernel/btf/vmlinux cannot be read",
            "offsets in kernel structures",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (the distributions' own are)",
        )
    if tried is None:
        yield Check(
            "kernel features", "warning", "not tried, for want of privileges", "BPF", "sudo bitnet-trace doctor"
        )
        return
    refused = "dmesg | tail; a kernel built with {}"
    yield _tried("ring buffer", tried.ring_buffer, "events reach user space", refused.format("CONFIG_BPF_SYSCALL=y"))
    yield _tried(
        "tracepoints", tried.raw_tracepoint, "switches, faults, system calls", refused.format("CONFIG_BPF_EVENTS=y")
    )
    yield _tried("uprobes", tried.uprobe, "phases of the engine", refused.format("CONFIG_UPROBE_EVENTS=y"))
    if tried.uprobe_costs:
        yield Check("uprobe costs", "ok", tried.uprobe_costs, "what a hit of a probe costs, by the instruction there")
    if tried.multi_uprobe:
        yield Check(
            "uprobes at once",
            "warning",
            tried.multi_uprobe,
            "else attached one by one: slower start and end",
            "nothing to do; Linux 6.6 has it",
        )
    else:
        yield Check("uprobes at once", "ok", "works", "quick start and end")
    yield _tried("BPF programs", tried.programs, "the recording itself", "report this line with the kernel's version")


def _tried(name: str, error: str | None, purpose: str, fix: str) -> Check:
    return Check(name, "problem", error, purpose, fix) if error else Check(name, "ok", "works", purpose)


def _hardware(machine: host.Host, tried: Attempts | None) -> Iterator[Check]:
    purpose = "hardware counters: cycles, cache and dTLB misses"
    if not machine.pmu:
        why = "none (a guest without vPMU)" if machine.hypervisor else "none"
        fix = "enable the virtual PMU in the hypervisor; without it PMU columns print -"
        yield Check("PMU", "warning", why, purpose, fix)
    elif tried is not None and tried.hardware_counter:
        yield Check(
            "PMU",
            "warning",
            tried.hardware_counter,
            purpose,
            "sysctl kernel.perf_event_paranoid=1; else columns print -",
        )
    else:
        yield Check("PMU", "ok", "present", purpose)

    purpose = "steady clock: runs can be compared"
    if machine.governors is None:
        yield Check("governor", "ok", "no cpufreq driver" + (" (a guest)" if machine.hypervisor else ""), purpose)
    else:
        names = ", ".join(sorted(set(machine.governors.values())))
        if names == "performance":
            yield Check("governor", "ok", names, purpose)
        else:
            fix = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
            yield Check("governor", "warning", names, purpose, fix)

    count = len(machine.cpus_allowed or ())
    cpus = f"{count} of {len(machine.cpus_online or ())} allowed: {machine.cpu_model or '-'}"
    if machine.core_types and len(machine.core_types) > 1:
        fast = ",".join(str(cpu) for cpu in machine.core_types["core"]) if "core" in machine.core_types else "0"
        yield Check(
            "CPUs",
            "warning",
            f"{cpus}, cores of different kinds",
            "threads on slow cores hold up all at each barrier",
            f"taskset -c {fast} CMD",
        )
    else:
        yield Check("CPUs", "ok", cpus, "threads no more than CPUs")


def _memory(machine: host.Host) -> Iterator[Check]:
    purpose = "huge pages for anonymous memory, on request"
    if machine.thp_enabled is None:
        yield Check(
            "THP", "warning", "not in this kernel", purpose, "a kernel built with CONFIG_TRANSPARENT_HUGEPAGE=y"
        )
    elif machine.thp_enabled == "never":
        fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield Check("THP", "warning", "never", purpose, fix)
    else:
        yield Check("THP", "ok", f"{machine.thp_enabled} (defrag {machine.thp_defrag or '-'})", purpose)
    reserved = [
        f"{pool.free} of {pool.pages} free, {pool.page_bytes >> 20} MiB" for pool in machine.huge_pools if pool.pages
    ]
    found = "; ".join(reserved) or "none reserved (sysctl vm.nr_hugepages=N reserves)"
    yield Check("hugetlbfs", "ok", found, "only for models placed there")
    if machine.sched_rt_runtime_us == -1:
        yield Check(
            "real-time limit",
            "warning",
            "off",
            "a spinning FIFO target can lock the machine up",
            "sysctl kernel.sched_rt_runtime_us=950000",
        )


def _demo(installed: bool) -> Check:
    purpose = "bitnet-trace demo"
    if installed:
        return Check("demo engine", "ok", "xllamacpp", purpose)
    return Check("demo engine", "warning", "xllamacpp is not installed", purpose, "pip install 'bitnet-trace[demo]'")


def _leftover(value: str | None) -> Iterator[Check]:
    """What a run with --allow-system-changes that was killed could not set back."""
    if value is not None:
        yield Check(
            "system settings",
            "warning",
            f"kernel.task_delayacct was {value} before a run that was killed",
            "delay accounting costs every program a little",
            f"sysctl kernel.task_delayacct={value}; the next run does it too",
        )


def print_table(results: list[Check]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from bitnet_trace.render.console import console

    screen = console()
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "found", "for"):
        table.add_column(title, overflow="fold")
    for check in results:
        mark, style = _MARKS[check.state]
        table.add_row(f"[{style}]{mark}[/]", check.name, escape(check.found), check.purpose)
    screen.print(table)
    for state in ("problem", "warning"):
        for check in results:
            if check.state == state and check.fix:
                mark, style = _MARKS[state]
                screen.print(f"\n[{style}]{mark}[/] {check.name}: {escape(check.found)}")
                screen.print(f"    {check.fix}", markup=False, soft_wrap=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Checks and the facts about the host, for programs.")
def doctor(as_json: bool) -> int:
    """What this machine can do, and the exact fix for what it can't.

    Features are tried, versions are not compared. Exit code 0: `run` works here; 1: it does not.
    """
    machine = host.gather()
    unsupported = None
    try:
        host.require_supported()
    except TraceError as error:
        unsupported = error.message
    tried = attempt(may_trace(machine) and unsupported is None)
    demo_engine = importlib.util.find_spec("xllamacpp") is not None
    results = checks(machine, host.find_bcc(), tried, unsupported, demo_engine)
    results += _leftover(delay_accounting.leftover())
    works = all(check.state != "problem" for check in results)
    if as_json:
        document: dict[str, Any] = {
            "schema": 1,
            "works": works,
            "checks": [asdict(check) for check in results],
            "host": machine.to_dict(),
        }
        click.echo(json.dumps(document, indent=2))
    else:
        print_table(results)
        if not works and os.geteuid() != 0:
            click.echo("\nWithout root much of this cannot be known: sudo bitnet-trace doctor")
    return 0 if works else 1
