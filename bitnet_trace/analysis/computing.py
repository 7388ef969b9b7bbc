"""Which threads compute: those that share the work of prefill and decode calls."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from bitnet_trace.analysis.tables import ENGINE_CALL_NAMES

# A thread computes in a phase when it ran for this share of the busiest one's time: they have like pieces of the work.
COMPUTES_SHARE = 0.2


@dataclass(frozen=True)
class Computing:
    """The threads that computed in the calls of one name and process."""

    name: str
    dur_ns: int
    tids: tuple[int, ...]
    cpu_ns: int
    runq_ns: int

    @property
    def wait_pct(self) -> float:
        """Of the time in which they ran or wanted to, that in which they had no CPU."""
        wanted_ns = self.cpu_ns + self.runq_ns
        return 100 * self.runq_ns / wanted_ns if wanted_ns else 0.0


def computing(counters: pd.DataFrame, phases: pd.DataFrame) -> Iterator[Computing]:
    """By name and process, the threads that computed in its prefill and decode calls.

    `counters` as of tables.condensed, `phases` named and with dur_ns.
    """
    calls = phases[phases["name"].isin(ENGINE_CALL_NAMES)].astype({"id": "int64"})
    sums = (
        counters[["cpu_ns", "runq_wait_ns"]]
        .reset_index()
        .merge(calls[["id", "name", "pid"]], left_on="phase", right_on="id")
        .groupby(["name", "pid", "tid"], as_index=False)[["cpu_ns", "runq_wait_ns"]]
        .sum()
    )
    busiest_ns = sums.groupby(["name", "pid"])["cpu_ns"].transform("max")
    sums = sums[sums["cpu_ns"] >= (COMPUTES_SHARE * busiest_ns).clip(lower=1)]
    chosen: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
    for name, pid, tid, cpu_ns, runq_ns in sums.itertuples(index=False):
        chosen[name, pid].append((int(tid), int(cpu_ns), int(runq_ns)))
    lengths = calls.groupby(["name", "pid"], as_index=False)["dur_ns"].sum()
    for name, pid, dur_ns in lengths.itertuples(index=False):
        threads = chosen.get((name, pid), [])
        yield Computing(
            name=str(name),
            dur_ns=int(dur_ns),
            tids=tuple(tid for tid, _, _ in threads),
            cpu_ns=sum(cpu_ns for _, cpu_ns, _ in threads),
            runq_ns=sum(runq_ns for _, _, runq_ns in threads),
        )
