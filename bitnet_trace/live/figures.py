"""Frames of a fold: the figures of a moment, and what changed since the last one."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_trace.analysis.computing import COMPUTES_SHARE
from bitnet_trace.analysis.spans import KEY_SHIFT, LOW_WORD
from bitnet_trace.analysis.tables import COMPUTE_MIN_SHARE, ENGINE_CALL_NAMES, IO_URING_COMMS
from bitnet_trace.columns import COUNTERS, PLACE_SUMS
from bitnet_trace.live.fold import Fold, PhaseTotals
from bitnet_trace.live.model import Frame, FunctionLine, PlaceLine, ThreadLine, TokenLine
from bitnet_trace.live.notices import Computed, notices
from bitnet_trace.live.phase_book import NAMES
from bitnet_trace.live.sums import by_group, counter
from bitnet_trace.recording.layout import COUNTER_FIELDS

N_TOKENS, N_FUNCTIONS, N_PLACES = 100, 100, 250
_PART_COUNTERS = ("cpu_ns", "offcpu_ns", "runq_wait_ns", "futex_wait_ns", "read_ns", "fault_ns")
_CALL_CODES = [NAMES.index(name) for name in ENGINE_CALL_NAMES]

Values = npt.NDArray[np.int64]


class Figures:
    """Makes frames of one fold, one after the other."""

    def __init__(self, fold: Fold, start_ns: int, cpus: int) -> None:
        self._fold, self._start_ns, self._cpus = fold, start_ns, cpus
        self._before: dict[int, dict[str, int]] = {}
        self._spins_before: dict[int, tuple[int, int]] = {}
        self._samples_before: dict[tuple[str, str], int] = {}
        self._faults_before: dict[tuple[str, str | None, bool], int] = {}
        self._last_ns: int | None = None
        self._events_before = 0
        self._found: dict[str, Any] = {}

    def frame(self, now_ns: int, meta: Mapping[str, Any], blind: set[str] | None = None, **more: Any) -> Frame:
        """The figures at `now_ns`; those of probes that are not attached (`blind`) are None. `meta`, `more`: what the
        frame has that is not folded."""
        fold = self._fold
        fold.settle()
        interval_ns = now_ns - (self._start_ns if self._last_ns is None else self._last_ns)
        named = sorted(fold.book.named(), key=lambda row: (row["begin_ns"], row["id"]))
        totals = fold.totals(now_ns)
        engine = fold.callers or {pid for pid, _ in totals}
        of_engine: dict[str, PhaseTotals] = {}
        for (pid, name), one in totals.items():
            if pid in engine:
                of_engine[name] = of_engine[name].plus(one) if name in of_engine else one
        sums = fold.by_name_and_tid()
        codes, tids = (sums.keys >> KEY_SHIFT).astype(np.intp), (sums.keys & LOW_WORD).astype(np.int64)
        unique, group = np.unique(tids, return_inverse=True)
        by_tid = by_group(sums.values, group, len(unique))
        by_code = by_group(sums.values, codes, len(NAMES))
        in_calls = np.bincount(
            group, counter(sums.values, "cpu_ns") * np.isin(codes, _CALL_CODES), minlength=len(unique)
        )
        call_ns = {pid: 0 for pid, _ in totals}
        for (pid, name), one in totals.items():
            if name in ENGINE_CALL_NAMES:
                call_ns[pid] += one.dur_ns
        roles = self._roles(dict(zip(unique.tolist(), in_calls.tolist(), strict=True)), call_ns)
        working = {tid for tid, role in roles.items() if role in ("main", "compute")}
        recent = [row for row in named if row["name"] in ENGINE_CALL_NAMES][-N_TOKENS:]
        tokens = self._tokens(recent, working, now_ns)
        decode, prefill = of_engine.get("decode"), of_engine.get("prefill")
        current = [row for row in named if row["end_ns"] is None]
        by_phase = [
            {"phase": name, "n": one.n, "dur_ns": one.dur_ns, **_public(by_code[:, code], blind or set())}
            for code, name in enumerate(NAMES)
            for one in [of_engine.get(name, PhaseTotals())]
            if one.n or by_code[:, code].any()
        ]
        computed = self._computed(sums.values, codes, tids, working)
        frame = Frame(
            elapsed_ns=now_ns - self._start_ns,
            interval_ns=interval_ns,
            engine=meta.get("engine"),
            command=list(meta.get("command") or []),
            model=fold.model,
            phase=current[-1]["name"] if current else None,
            prompt_tokens=prefill.ended_tokens if prefill and prefill.ended_ns and prefill.tokens_known else None,
            decoded_tokens=decode.ended_tokens if decode else 0 if prefill else None,
            tokens_per_s_now=_rate_now(recent, now_ns - max(interval_ns, 1_000_000_000)),
            tokens_per_s=_rate(decode),
            prefill_tokens_per_s=_rate(prefill) if prefill and prefill.tokens_known else None,
            ttft_ns=self._ttft_ns(),
            events=fold.n_events,
            events_per_s=(fold.n_events - self._events_before) * 1e9 / max(interval_ns, 1),
            barriers=fold.stragglers.barriers,
            threads=self._threads(unique, by_tid, roles, now_ns, interval_ns),
            tokens=tokens,
            functions=self._functions(),
            places=self._places(interval_ns, blind or set()),
            by_phase=by_phase,
            durations={name: one.histogram for name, one in of_engine.items()},
            durations_ns={name: one.ended_ns for name, one in of_engine.items()},
            notices=notices(by_phase, computed, tokens, self._cpus, self._found),
            **{**more, "message": more.get("message") or fold.happenings.newest(now_ns)},
        )
        self._last_ns, self._events_before = now_ns, fold.n_events
        return frame

    def _roles(self, ran_ns: dict[int, float], call_ns: dict[int, int]) -> dict[int, str]:
        """As analysis.tables.by_thread has them."""
        roles = {}
        for tid, thread in self._fold.threads.by_tid.items():
            if tid in self._fold.decoders:
                roles[tid] = "main"
            elif thread.comm.startswith(IO_URING_COMMS):
                roles[tid] = "io_uring"
            elif ran_ns.get(tid, 0) > COMPUTE_MIN_SHARE * call_ns.get(thread.pid, 0):
                roles[tid] = "compute"
            else:
                roles[tid] = "other"
        return roles

    def _tokens(self, rows: list[dict[str, Any]], working: set[int], now_ns: int) -> list[TokenLine]:
        """Of the newest calls, the parts of their time: means over the threads that work, as analysis/token_time.py."""
        newest = self._fold.by_newest_phase()
        phases, tids = (newest.keys >> KEY_SHIFT).astype(np.int64), (newest.keys & LOW_WORD).astype(np.int64)
        mine = np.isin(tids, list(working))
        places = {int(row["id"]): place for place, row in enumerate(rows)}
        lines = []
        spin = {name: self._fold.samples.spin_share(name) for name in ENGINE_CALL_NAMES}
        wanted = np.array(list(places), np.int64)
        chosen = mine & np.isin(phases, wanted)
        group = np.array([places[phase] for phase in phases[chosen].tolist()], np.intp)
        mean = {
            name: np.bincount(group, counter(newest.values, name)[chosen], minlength=len(rows)) / max(len(working), 1)
            for name in _PART_COUNTERS
        }
        mean["cpu_ns"] += self._open_on_cpu(rows, working, now_ns) / max(len(working), 1)
        for place, row in enumerate(rows):
            ended = row["end_ns"] is not None
            dur_ns = max((row["end_ns"] if ended else now_ns) - row["begin_ns"], 0)
            parts = _parts({name: float(values[place]) for name, values in mean.items()}, dur_ns, spin[row["name"]])
            lines.append(
                TokenLine(
                    name=row["name"],
                    token=row["token"],
                    n_tokens=row["n_tokens"],
                    start_ns=row["begin_ns"] - self._start_ns,
                    dur_ns=dur_ns,
                    ended=ended,
                    mostly=max(parts, key=lambda key: parts[key]) if ended else "open",
                    parts=parts,
                )
            )
        return lines

    def _threads(
        self, tids: Values, by_tid: Values, roles: dict[int, str], now_ns: int, interval_ns: int
    ) -> list[ThreadLine]:
        spins, lines = self._fold.samples.by_thread(), []
        places = {tid: place for place, tid in enumerate(tids.tolist())}
        nothing = np.zeros(len(COUNTER_FIELDS), np.int64)
        after: dict[int, dict[str, int]] = {}
        for tid, thread in self._fold.threads.by_tid.items():
            values = by_tid[:, places[tid]] if tid in places else nothing
            open_ns = max(now_ns - thread.since_ns, 0) if thread.since_ns else 0
            now = {
                "cpu": int(counter(values, "cpu_ns")) + (open_ns if thread.state == "R" else 0),
                "runq": int(counter(values, "runq_wait_ns")) + (open_ns if thread.state == "r" else 0),
                "futex": int(counter(values, "futex_wait_ns")),
                "faults": sum(
                    int(counter(values, f"faults_{source}_{size}"))
                    for source in ("user", "kernel")
                    for size in ("minor", "major")
                ),
                "switches": int(counter(values, "switches_voluntary") + counter(values, "switches_involuntary")),
                "migrations": int(counter(values, "migrations")),
            }
            after[tid] = now
            before = self._before.get(tid, dict.fromkeys(now, 0))
            change = {key: max(value - before[key], 0) for key, value in now.items()}
            shares = {key: min(100 * change[key] / max(interval_ns, 1), 100.0) for key in ("cpu", "runq", "futex")}
            known = thread.state is not None or any(now.values())
            samples, spinning = spins.get(tid, (0, 0))
            old_samples, old_spinning = self._spins_before.get(tid, (0, 0))
            spin = (spinning - old_spinning) / (samples - old_samples) if samples > old_samples else None
            lines.append(
                ThreadLine(
                    tid=tid,
                    comm=thread.comm,
                    role=roles.get(tid, "other"),
                    state=thread.state,
                    cpu=thread.cpu,
                    on_cpu_pct=shares["cpu"] if known else None,
                    run_queue_pct=shares["runq"] if known else None,
                    spin_pct=None if spin is None else spin * shares["cpu"],
                    futex_pct=shares["futex"] if known else None,
                    faults_per_s=change["faults"] * 1e9 / max(interval_ns, 1),
                    switches_per_s=change["switches"] * 1e9 / max(interval_ns, 1),
                    migrations=now["migrations"],
                    last_at=self._fold.stragglers.last.get(tid, 0) if self._fold.stragglers.barriers else None,
                    policy=thread.policy,
                    cpu_ns=int(counter(values, "cpu_ns")),
                )
            )
        self._before, self._spins_before = after, spins
        return sorted(lines, key=lambda line: -line.cpu_ns)

    def _open_on_cpu(self, rows: list[dict[str, Any]], working: set[int], now_ns: int) -> npt.NDArray[np.float64]:
        """For how long working threads that have not left their CPU since were on it in each of these calls: counters
        have that when they leave it, and some compute for seconds."""
        begin, end = np.array([(row["begin_ns"], row["end_ns"] or now_ns) for row in rows], np.int64).reshape(-1, 2).T
        total = np.zeros(len(rows))
        for tid in working:
            thread = self._fold.threads.by_tid[tid]
            if thread.state == "R" and thread.since_ns:
                total += (np.minimum(end, now_ns) - np.maximum(begin, thread.since_ns)).clip(min=0)
        return total

    def _functions(self) -> list[FunctionLine]:
        counts = self._fold.samples.by_function()
        n = max(self._fold.samples.n, 1)
        new = {key: samples - self._samples_before.get(key, 0) for key, (samples, _) in counts.items()}
        n_new = sum(new.values())
        self._samples_before = {key: samples for key, (samples, _) in counts.items()}
        ranked = sorted(counts.items(), key=lambda item: -item[1][0])[:N_FUNCTIONS]
        return [
            FunctionLine(
                name=key[0],
                module=key[1],
                role=role,
                samples=samples,
                self_pct=100 * samples / n,
                now_pct=100 * new[key] / n_new if n_new > 0 else None,
            )
            for key, (samples, role) in ranked
        ]

    def _places(self, interval_ns: int, blind: set[str]) -> list[PlaceLine]:
        """Regions, then tensors, those with the most faults first."""
        known = [column.key for column in PLACE_SUMS if not blind.intersection(column.needs)]
        counts: dict[tuple[str, str | None, bool], Counter[str]] = {}
        for name, path, is_tensor, sums in self._fold.places.rows():
            counts.setdefault((name, path, is_tensor), Counter()).update(sums)
        faults = {key: sums["faults_minor"] + sums["faults_major"] for key, sums in counts.items()}
        before, self._faults_before = self._faults_before, faults
        ranked = sorted(
            counts, key=lambda key: (key[2], -faults[key] - counts[key]["faults_populate"], -counts[key]["read_bytes"])
        )
        return [
            PlaceLine(
                *key,
                faults_per_s=(faults[key] - before.get(key, 0)) * 1e9 / max(interval_ns, 1)
                if "faults_minor" in known
                else None,
                sums={name: counts[key][name] for name in known},
            )
            for key in ranked[:N_PLACES]
        ]

    def _computed(
        self, values: Values, codes: npt.NDArray[np.intp], tids: Values, working: set[int]
    ) -> dict[str, Computed]:
        """Of the threads that computed in calls of each name: how many, their time on a CPU, and waiting for one."""
        result = {}
        for name, code in zip(ENGINE_CALL_NAMES, _CALL_CODES, strict=True):
            own = (codes == code) & np.isin(tids, list(working))
            cpu_ns, runq_ns = counter(values, "cpu_ns")[own], counter(values, "runq_wait_ns")[own]
            if len(cpu_ns):
                most = cpu_ns >= max(COMPUTES_SHARE * cpu_ns.max(), 1)
                result[name] = Computed(int(most.sum()), int(cpu_ns[most].sum()), int(runq_ns[most].sum()))
        return result

    def _ttft_ns(self) -> int | None:
        row = self._fold.first_result
        if row is None or self._fold.attached:
            return None
        return int(row["end_ns"]) - self._fold.first_ns[int(row["pid"])]


def _parts(mean: dict[str, float], dur_ns: int, spin_share: float | None) -> dict[str, int]:
    """The parts of one call's time, by columns.PARTS; they add up to `dur_ns`."""
    cpu_ns = min(mean["cpu_ns"], dur_ns)
    asleep_ns = max(min(mean["offcpu_ns"] - mean["runq_wait_ns"], dur_ns - cpu_ns), 0)
    runq_ns = max(min(mean["runq_wait_ns"], dur_ns - cpu_ns - asleep_ns), 0)
    futex_ns = min(mean["futex_wait_ns"], asleep_ns)
    io_ns = min(mean["read_ns"], asleep_ns - futex_ns)
    fault_ns = min(mean["fault_ns"], cpu_ns)
    parts = {
        "spin_ns": (spin_share or 0.0) * (cpu_ns - fault_ns),
        "runq_ns": runq_ns,
        "fault_ns": fault_ns,
        "futex_ns": futex_ns,
        "io_ns": io_ns,
        "rest_ns": max(dur_ns - cpu_ns - runq_ns - futex_ns - io_ns, 0),
    }
    whole = {name: round(ns) for name, ns in parts.items()}
    return {"compute_ns": dur_ns - sum(whole.values()), **whole}


def _public(values: Values, blind: set[str]) -> dict[str, int | None]:
    """columns.COUNTERS of sums of layout.COUNTER_FIELDS, as analysis.tables.public_counters."""
    raw = dict(zip(COUNTER_FIELDS, values.tolist(), strict=True))
    derived = {
        "cpu_user_ns": max(raw["cpu_ns"] - raw["cpu_system_ns"], 0),
        "faults_minor": raw["faults_user_minor"] + raw["faults_kernel_minor"],
        "faults_major": raw["faults_user_major"] + raw["faults_kernel_major"],
        "faults_kernel": raw["faults_kernel_minor"] + raw["faults_kernel_major"],
        "faults_populate": raw["faults_populate_minor"] + raw["faults_populate_major"],
        "rss_peak_bytes": raw["rss_peak_bytes"] or None,
    }
    return {
        column.key: derived[column.key] if column.key in derived else raw[column.key]
        for column in COUNTERS
        if column.measured and not blind.intersection(column.needs)
    }


def _rate(one: PhaseTotals | None) -> float | None:
    return round(one.ended_tokens * 1e9 / one.ended_ns, 3) if one and one.ended_tokens and one.ended_ns else None


def _rate_now(rows: list[dict[str, Any]], since_ns: int) -> float | None:
    """Tokens per second in the decode calls that ended since then."""
    ended = [row for row in rows if row["name"] == "decode" and row["end_ns"] is not None and row["end_ns"] >= since_ns]
    ns = sum(row["end_ns"] - row["begin_ns"] for row in ended)
    return sum(row["n_tokens"] or 1 for row in ended) * 1e9 / ns if ns else None
