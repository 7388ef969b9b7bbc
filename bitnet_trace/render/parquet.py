"""A recording as Parquet files, TABLE/host=HOST/run=RUN/: the recordings of many machines are read as one table."""

import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bitnet_trace.analysis.report import Report
from bitnet_trace.analysis.tidy import tidy
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.schema import EVENT_SCHEMA

_FILE = "part-0.parquet"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LIMIT = 100
_ROWS = 1_000_000


def write(report: Report, folder: Path, force: bool) -> list[Path]:
    """Writes each table of the report, and the events, below `folder`; the folders made.

    Raises TraceError where the run is there already and `force` is not set.
    """
    host, run = partition(report)
    tables = tidy(report)
    places = {name: folder / name / f"host={host}" / f"run={run}" for name in (*tables, "events")}
    for place in places.values():
        if place.exists() and not force:
            raise TraceError(f"{place} exists already", "replace it with --force")
    for name, place in places.items():
        temporary = place.with_name(f".{place.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if name == "events":
            _write_events(report, temporary / _FILE)
        else:
            pq.write_table(pa.Table.from_pandas(tables[name], preserve_index=False), temporary / _FILE)
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
    return list(places.values())


def partition(report: Report) -> tuple[str, str]:
    """(host, run): the machine's name, and the recording's with the time at which it began (UTC)."""
    host = report.run["host"].get("name")
    start_ns, offset_ns = report.run["start_ns"], report.run["clock_offset_ns"]
    began = ""
    if offset_ns is not None:
        try:
            began = datetime.fromtimestamp((start_ns + offset_ns) / 1e9, timezone.utc).strftime("-%Y%m%dT%H%M%SZ")
        except (OverflowError, ValueError, OSError):
            began = ""
    return _safe(host if isinstance(host, str) else "unknown"), _safe(f"{report.recording.path.stem}{began}")


def _safe(name: str) -> str:
    """As part of a path, and of a name=value pair."""
    return _UNSAFE.sub("_", name)[:_NAME_LIMIT] or "_"


def _write_events(report: Report, path: Path) -> None:
    with pq.ParquetWriter(path, EVENT_SCHEMA) as writer:
        for batch in report.recording.event_batches(_ROWS):
            columns = [pa.array(batch[name].copy()) for name in EVENT_SCHEMA.names]
            writer.write_table(pa.Table.from_arrays(columns, schema=EVENT_SCHEMA))
