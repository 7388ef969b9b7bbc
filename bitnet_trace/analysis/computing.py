"""Which threads compute: those that share the work of prefill and decode calls."""

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

    `counters` as of fold_events, `phases` named and with dur_ns.
    """
    calls = phases[phases["name"].isin(ENGINE_CALL_NAMES)]
    located = (
        counters[["cpu_ns", "runq_wait_ns"]]
        .reset_index()
        .merge(calls[["id", "name", "pid", "dur_ns"]].astype({"id": "int64"}), left_on="phase", right_on="id")
    )
    for (name, pid), of_process in calls.groupby(["name", "pid"]):
        whole_ns = int(of_process["dur_ns"].sum())
        own = located[(located["name"] == name) & (located["pid"] == pid)]
        sums = own.groupby("tid")[["cpu_ns", "runq_wait_ns"]].sum()
        chosen = sums[sums["cpu_ns"] >= max(COMPUTES_SHARE * sums["cpu_ns"].max(), 1)] if len(sums) else sums
        yield Computing(
            name=str(name),
            dur_ns=whole_ns,
            tids=tuple(chosen.index.tolist()),
            cpu_ns=int(chosen["cpu_ns"].sum()),
            runq_ns=int(chosen["runq_wait_ns"].sum()),
        )
