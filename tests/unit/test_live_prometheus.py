"""What is exposed to Prometheus: checked by its own parser, and by promtool where that is installed."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bitnet_trace.live.prometheus import LOOPBACK, Metrics, address_of
from bitnet_trace.live.replay import Replay
from bitnet_trace.recording.reader import open_recording
from tests.unit.traces import write_inference


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    replay = Replay(open_recording(write_inference(tmp_path_factory.mktemp("metrics") / "x.btrace")))
    return replay.advance(replay.length_ns)


def exposed(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures(frame):
    metrics = Metrics()
    metrics.frame = frame
    found = samples(exposed(metrics))
    assert found["bitnet_trace_tokens_total", ("phase", "decode")] == frame.decoded_tokens == 5
    decode = next(row for row in frame.by_phase if row["phase"] == "decode")
    assert found["bitnet_trace_phase_duration_seconds_count", ("phase", "decode")] == decode["n"]
    assert found["bitnet_trace_phase_duration_seconds_sum", ("phase", "decode")] == pytest.approx(0.05)
    assert found["bitnet_trace_cpu_seconds_total", ("phase", "decode")] == pytest.approx(decode["cpu_ns"] / 1e9)
    minor = found["bitnet_trace_page_faults_total", ("kind", "minor"), ("phase", "decode")]
    assert minor == decode["faults_minor"]
    # all tokens took 10 ms: in the bucket up to 16.384 ms, and in none before
    buckets = {
        float(dict(key[1:])["le"]): value
        for key, value in found.items()
        if key[0] == "bitnet_trace_phase_duration_seconds_bucket" and ("phase", "decode") in key
    }
    assert buckets[0.016384] == 5
    assert buckets[0.008192] == 0
    assert found["bitnet_trace_events_lost_total",] == 4


def test_counters_only_grow(frame):
    metrics = Metrics()
    metrics.frame = frame
    before = samples(exposed(metrics))
    metrics.frame = replace(frame, by_phase=[{**row, "cpu_ns": 0} for row in frame.by_phase], decoded_tokens=1)
    after = samples(exposed(metrics))
    assert all(after[key] >= value for key, value in before.items() if key[0].endswith("_total"))


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's prometheus is not installed")
def test_promtool(frame):
    metrics = Metrics()
    metrics.frame = frame
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposed(metrics), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_addresses():
    assert address_of("9464") == (LOOPBACK, 9464)
    assert address_of(":9464") == (LOOPBACK, 9464)
    assert address_of("0.0.0.0:80") == ("0.0.0.0", 80)
    assert address_of("[::1]:9464") == ("::1", 9464)
    for text in ("", "x", "1:99999", "host:", "host:0"):
        with pytest.raises(ValueError, match="ADDRESS:PORT"):
            address_of(text)
