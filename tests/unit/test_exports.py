"""Every export, read back by its own reader or held against its format's rules."""

import csv
import io
import json
from collections import Counter, defaultdict

import duckdb
import golden
import pandas as pd
import pytest
from busy import N_THREADS, write_busy
from click.testing import CliRunner
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto
from traces import PID, write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.analysis.tidy import tidy
from bitnet_trace.analysis.trace import trace
from bitnet_trace.commands.export import export
from bitnet_trace.errors import TraceError
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.render import json as json_form

N_CALLS = 6


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_busy(tmp_path_factory.mktemp("export") / "a.btrace")


@pytest.fixture(scope="module")
def report(path):
    return build_report(open_recording(path))


def run(*arguments):
    result = CliRunner().invoke(export, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


class Perfetto:
    """What trace_processor makes of track events: slices by track, nested as begun and ended."""

    def __init__(self, data):
        packets = proto.Trace.FromString(data).packet
        self.tracks, names = {}, {}
        self.slices, self.counters = defaultdict(list), defaultdict(list)
        self.begun, self.ended = Counter(), Counter()
        events = []
        for packet in packets:
            assert packet.trusted_packet_sequence_id == 1
            if packet.HasField("track_descriptor"):
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            names.update({one.iid: one.name for one in packet.interned_data.event_names})
            if packet.HasField("track_event"):
                events.append((packet.timestamp, packet.track_event))
        assert packets[0].trace_packet_defaults.timestamp_clock_id == 3
        stacks = defaultdict(list)
        for ts, event in sorted(events, key=lambda one: one[0]):
            assert event.track_uuid in self.tracks
            stack = stacks[event.track_uuid]
            if event.type == proto.TrackEvent.TYPE_SLICE_BEGIN:
                stack.append((names[event.name_iid], ts))
            elif event.type == proto.TrackEvent.TYPE_SLICE_END:
                name, begin = stack.pop()
                self.slices[event.track_uuid].append((name, begin, ts - begin))
            elif event.type == proto.TrackEvent.TYPE_COUNTER:
                self.counters[self.tracks[event.track_uuid].name].append(event.counter_value)
            self.begun.update(event.flow_ids)
            self.ended.update(event.terminating_flow_ids)
        assert not any(stacks.values())

    def of_thread(self, tid):
        (uuid,) = [uuid for uuid, one in self.tracks.items() if one.thread.tid == tid]
        return self.slices[uuid]

    def named(self, name):
        (uuid,) = [uuid for uuid, one in self.tracks.items() if one.name == name]
        return self.slices[uuid]


@pytest.fixture(scope="module")
def perfetto(path):
    return Perfetto(run(path, "--to", "perfetto"))


def sums(slices):
    result = Counter()
    for name, _, dur_ns in slices:
        result[name] += dur_ns
    return result


def test_perfetto_has_every_token_as_a_slice(perfetto, report):
    names = [name for name, _, _ in perfetto.named("phases")]
    assert [name for name in names if name.startswith("decode")] == [f"decode {token}" for token in range(1, 6)]
    by_name = Counter()
    for name, _, dur_ns in perfetto.named("phases"):
        by_name[name.split()[0]] += dur_ns
    assert by_name == dict(zip(report.by_phase["phase"], report.by_phase["dur_ns"], strict=True))


def test_perfetto_has_every_thread_as_a_track_with_the_report_s_sums(perfetto, report):
    threads = {one.thread.tid: one.thread for one in perfetto.tracks.values() if one.HasField("thread")}
    assert sorted(threads) == [PID + number for number in range(N_THREADS)]
    for row in report.by_thread.to_dict("records"):
        of_thread = sums(perfetto.of_thread(row["tid"]))
        assert threads[row["tid"]].pid == PID
        assert of_thread["running"] == row["cpu_ns"]
        assert of_thread["waiting for a CPU"] == row["runq_wait_ns"]
        assert sum(of_thread.values()) - of_thread["running"] == row["offcpu_ns"]


def test_perfetto_has_cpus_counters_and_arrows(perfetto, report):
    cpus = [one.name for one in perfetto.tracks.values() if one.parent_uuid and one.name.startswith("CPU ")]
    assert cpus == ["CPU 0"]  # the hand-made threads leave from there, all of them at once
    assert perfetto.counters["page faults"][-1] == report.total["faults_minor"].iloc[0]
    assert set(perfetto.counters["resident memory"]) == {987_654_321}
    assert perfetto.begun == perfetto.ended
    assert len(perfetto.begun) >= N_CALLS * (N_THREADS - 1)


def test_a_wakeup_points_to_where_the_thread_runs_next(report):
    wakeups = trace(report).wakeups
    assert (wakeups.runs_ns >= wakeups.ts_ns).all()
    assert (wakeups.runs_ns - wakeups.ts_ns).max() == 1


def test_chrome_has_the_same_as_perfetto(path, perfetto):
    value = json.loads(run(path, "--to", "chrome"))
    assert set(value) == {"displayTimeUnit", "traceEvents"}
    by_kind = defaultdict(list)
    for one in value["traceEvents"]:
        by_kind[one["ph"]].append(one)
    assert set(by_kind) == {"M", "X", "C", "s", "f"}
    for tid in range(PID, PID + N_THREADS):
        own = Counter()
        for one in by_kind["X"]:
            if one["cat"] == "thread" and one["tid"] == tid:
                own[one["name"]] += round(one["dur"] * 1000)
        assert own == sums(perfetto.of_thread(tid))
    assert sum(one["cat"] == "phases" for one in by_kind["X"]) == len(perfetto.named("phases"))
    assert {one["id"] for one in by_kind["s"]} == {one["id"] for one in by_kind["f"]} == set(perfetto.begun)
    named = {(one["pid"], one["tid"]) for one in by_kind["M"] if one["name"] == "thread_name"}
    assert {(one["pid"], one["tid"]) for one in by_kind["X"]} == named


def test_a_recording_without_switches_has_its_phases(tmp_path):
    data = run(write_inference(tmp_path / "a.btrace"), "--to", "perfetto")
    assert len(Perfetto(data).named("phases")) == 19


def test_speedscope(path, report):
    """The rules of its file-format-spec.ts."""
    value = json.loads(run(path, "--to", "speedscope"))
    assert value["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    n_frames = len(value["shared"]["frames"])
    assert all(set(frame) == {"name"} for frame in value["shared"]["frames"])
    assert value["activeProfileIndex"] == 0
    for one in value["profiles"]:
        assert (one["type"], one["unit"], one["startValue"]) == ("sampled", "nanoseconds", 0)
        assert len(one["samples"]) == len(one["weights"])
        assert sum(one["weights"]) == one["endValue"]
        assert all(0 <= frame < n_frames for stack in one["samples"] for frame in stack)
    first = value["profiles"][0]
    assert first["endValue"] == report.profile.n_samples * report.profile.period_ns
    assert sum(one["endValue"] for one in value["profiles"][1:]) == first["endValue"]


def test_folded_and_speedscope_weigh_the_same(path):
    lines = run(path, "--to", "folded").decode().splitlines()
    value = json.loads(run(path, "--to", "speedscope"))
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == pytest.approx(
        value["profiles"][0]["endValue"] / 1000, rel=1e-3
    )


@pytest.mark.parametrize("table", ["by_phase", "by_thread", "tokens", "token_time", "run_queue", "waits"])
def test_csv(path, report, table):
    text = run(path, "--to", "csv", "--table", table).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.count("\r\n") == len(rows) + 1
    wanted = json.loads(json_form.render(report))[table]
    assert len(rows) == len(wanted)
    for row, own in zip(rows, wanted, strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in own.items()}


@pytest.mark.parametrize("name", golden.NAMES)
def test_tables_of_recordings_of_all_kinds(name, tmp_path):
    """Figures with a fraction, nested and missing ones: as in the JSON output, whatever was recorded."""
    report = build_report(golden.recording(name, tmp_path))
    document = json.loads(json_form.render(report))

    def as_column(value):
        return json.dumps(value) if isinstance(value, dict) else str(value) if isinstance(value, bool) else value

    plain = {key: table for key, table in tidy(report).items() if isinstance(document.get(key), list)}
    assert {"by_phase", "tokens", "functions"} <= set(plain)
    for key, table in plain.items():
        own = table.astype(object).where(table.notna(), None).to_dict("records")
        assert own == [{name: as_column(value) for name, value in row.items()} for row in document[key]], key


def test_csv_of_an_unknown_table(path):
    with pytest.raises(TraceError, match="no table x") as error:
        run(path, "--to", "csv", "--table", "x")
    assert "by_phase" in error.value.hint


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """The recordings of two machines in one folder."""
    folder = tmp_path_factory.mktemp("fleet")
    for host, name in (("alpha", "one"), ("alpha", "two"), ("beta/..=%", "one")):
        place = folder / f"{host[:4]}-{name}"
        place.mkdir()
        path = write_busy(place / f"{name}.btrace")
        meta = json.loads((path / "meta.json").read_text())
        meta["host"]["name"] = host
        meta["clock_offset_ns"] = 1_700_000_000 * 10**9
        (path / "meta.json").write_text(json.dumps(meta))
        run(path, "--to", "parquet", "-o", folder / "fleet")
    return folder / "fleet"


def test_a_fleet_in_duckdb(fleet):
    """The example of docs/exports.md."""
    rows = duckdb.sql(
        f"""
        SELECT host, run, round(1e9 * count(*) / sum(dur_ns), 1) AS tokens_per_s
        FROM read_parquet('{fleet}/tokens/**/*.parquet', hive_partitioning = true)
        WHERE name = 'decode'
        GROUP BY host, run ORDER BY host, run
        """
    ).fetchall()
    assert [row[:2] for row in rows] == [
        ("alpha", "one-20231114T221321Z"),
        ("alpha", "two-20231114T221321Z"),
        ("beta_..__", "one-20231114T221321Z"),
    ]
    assert all(row[2] == pytest.approx(100, rel=0.05) for row in rows)


def test_parquet_tables_are_those_of_the_report(fleet, report):
    for name, table in tidy(report).items():
        read = pd.read_parquet(fleet / name / "host=alpha", dtype_backend="numpy_nullable")
        one = read[read["run"] == "one-20231114T221321Z"].drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(one, table, check_dtype=False, check_column_type=False)
    events = pd.read_parquet(fleet / "events" / "host=alpha" / "run=one-20231114T221321Z")
    assert len(events) == report.recording.n_events
    assert events["ts_ns"].tolist() == report.recording.events["ts_ns"].tolist()


def test_a_run_is_not_replaced_without_force(fleet, path, tmp_path):
    run(path, "--to", "parquet", "-o", tmp_path / "fleet")
    with pytest.raises(TraceError, match="exists already"):
        run(path, "--to", "parquet", "-o", tmp_path / "fleet")
    run(path, "--to", "parquet", "-o", tmp_path / "fleet", "--force")
    assert len(list((tmp_path / "fleet" / "phases").rglob("*.parquet"))) == 1
    with pytest.raises(TraceError, match="folder of files"):
        run(path, "--to", "parquet")
