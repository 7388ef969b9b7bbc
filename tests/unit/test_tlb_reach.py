"""TLBs as CPUs tell of them, and how far they reach."""

import pytest
from traces import write_inference

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture import cpuid
from bitnet_trace.capture.cpuid import BOTH, CODE, DATA, G1, K4, M2, Tlb, tlbs
from bitnet_trace.recording.reader import open_recording
from bitnet_trace.recording.writer import Writer
from bitnet_trace.render import json as json_report
from bitnet_trace.render import text

INTEL, AMD = (0x756E6547, 0x6C65746E, 0x49656E69), (0x68747541, 0x444D4163, 0x69746E65)  # ebx, ecx, edx

# leaf 2 of a Haswell: descriptors FF (caches: leaf 4), B5, F0, C1, 63, 76 and, in three registers, nothing
HASWELL = {(0, 0): (0xD, *INTEL), (2, 0): (0x76036301, 0x00F0B5FF, 0, 0x00C10000)}
# leaf 18H: made up, with each kind
PARAMETERS = {
    (0, 0): (0x20, *INTEL),
    (0x18, 0): (4, 0, 0, 0),
    (0x18, 1): (0, 0x00080001, 0x20, 0x4022),
    (0x18, 2): (0, 0x00080006, 0x4, 0x4022),
    (0x18, 3): (0, 0x00100001, 0x1, 0x4125),
    (0x18, 4): (0, 0x00080009, 0x80, 0x4043),
}
GENOA = {
    (0, 0): (0x10, *AMD),
    (0x80000000, 0): (0x80000021, *AMD),
    (0x80000005, 0): (0xFF48FF40, 0xFF48FF40, 0, 0),
    (0x80000006, 0): (0x5C002200, 0x6C004200, 0, 0),
    (0x80000019, 0): (0xF048F040, 0xF0400000, 0, 0),
}


def of(machine):
    return tlbs(lambda leaf, subleaf: machine.get((leaf, subleaf), (0, 0, 0, 0)))


def test_intel_descriptors():
    assert of(HASWELL) == [
        Tlb(1, CODE, K4, 64),
        Tlb(1, CODE, M2, 8),
        Tlb(1, DATA, K4, 64),
        Tlb(1, DATA, M2, 32),
        Tlb(1, DATA, G1, 4),
        Tlb(2, BOTH, K4, 1024, True),
        Tlb(2, BOTH, M2, 1024, True),
    ]


def test_intel_parameters():
    assert of(PARAMETERS) == [
        Tlb(1, CODE, K4, 256),
        Tlb(1, CODE, M2, 32),
        Tlb(1, "stores", K4, 16),
        Tlb(2, BOTH, K4, 1024, True),
        Tlb(2, BOTH, G1, 1024, True),
    ]


def test_amd():
    assert of(GENOA) == [
        Tlb(1, CODE, K4, 64),
        Tlb(1, CODE, M2, 64),
        Tlb(1, CODE, G1, 64),
        Tlb(1, DATA, K4, 72),
        Tlb(1, DATA, M2, 72),
        Tlb(1, DATA, G1, 72),
        Tlb(2, CODE, K4, 512),
        Tlb(2, CODE, M2, 512),
        Tlb(2, DATA, K4, 3072),
        Tlb(2, DATA, M2, 3072),
        Tlb(2, DATA, G1, 64),
    ]


def test_this_cpu():
    """The instruction itself: its vendor is the one that the kernel knows."""
    _, ebx, ecx, edx = cpuid.execute(0, 0)
    vendor = b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx)).decode()
    with open("/proc/cpuinfo") as file:
        assert any(line.split() == ["vendor_id", ":", vendor] for line in file)
    assert all(one["entries"] > 0 for one in cpuid.described())


def tensor(name, size_bytes, rows):
    return {
        "device": 1,
        "inode": 2,
        "path": "/m.gguf",
        "name": name,
        "type": 0,
        "type_name": "F32",
        "elements": size_bytes // 4,
        "rows": rows,
        "offset": 0,
        "size_bytes": size_bytes,
    }


@pytest.fixture
def report(tmp_path):
    def made(tensors, told):
        whole = open_recording(write_inference(tmp_path / "whole.btrace"))
        writer = Writer(tmp_path / "a.btrace", {**whole.meta, "tlbs": told})
        writer.phases(whole.phases.astype(object).where(whole.phases.notna(), None).to_dict("records"))
        writer.tensors(tensors)
        writer.close(0)
        return build_report(open_recording(tmp_path / "a.btrace"))

    return made


def test_reach_of_a_model(report):
    told = [vars(one) for one in (Tlb(1, CODE, K4, 64), Tlb(2, DATA, K4, 1000), Tlb(2, DATA, M2, 1000))]
    tensors = [tensor("token_embd.weight", 8_000_000, 1000), tensor("output.weight", 8_000_000, 1000)]
    found = report([*tensors, tensor("blk.0.ffn_up.weight", 8_384_000, 512)], told)
    assert found.tlb_reach.touched_bytes == 8_000 + 8_000_000 + 8_384_000
    small, large = found.tlb_reach.levels.to_dict("records")
    assert small["reach_bytes"] == 4_096_000
    assert small["reach_pct"] == pytest.approx(100 * 4_096_000 / 16_392_000)
    assert large["reach_pct"] == 100.0
    as_json = json_report.to_dict(found)["tlb_reach"]
    assert (as_json["how"], as_json["experts"], len(as_json["levels"])) == ("estimated", False, 2)
    assert "TLB reach (estimated)" in text.render(found, 100)


def test_an_embedding_that_is_the_output_too_is_read_whole(report):
    found = report(
        [tensor("token_embd.weight", 1 << 20, 100), tensor("blk.0.ffn_up_exps.weight", 4096, 1)],
        [vars(Tlb(1, DATA, K4, 64))],
    )
    assert found.tlb_reach.touched_bytes == (1 << 20) + 4096
    assert found.tlb_reach.experts


@pytest.mark.parametrize("told", [[], [{"level": "x"}], [{"level": 1, "page_bytes": -4, "entries": 1, "of": "data"}]])
def test_where_it_is_not_told(report, told):
    found = report([tensor("output.weight", 4096, 1)], told)
    assert found.tlb_reach is None
    assert json_report.to_dict(found)["tlb_reach"] is None
