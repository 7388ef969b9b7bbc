"""Resident memory by page size, against what programs know of their own."""

import ctypes
import mmap
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest

from bitnet_trace.analysis.report import build_report
from bitnet_trace.capture import page_sizes

HUGE = 2 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def resident(traced, moment="end"):
    """Bytes by page size of the program's own big area, and its report."""
    traced.assert_nothing_lost()
    (truth,) = traced.lines
    report = build_report(traced.recording)
    rows = traced.recording.residency
    rows = rows[(rows["moment"] == moment) & (rows["begin"] < truth["begin"] + truth["bytes"])]
    rows = rows[rows["end"] > truth["begin"]]
    sizes = (rows["end"] - rows["begin"]).groupby(rows["page_bytes"]).sum()
    return {int(page): int(size) for page, size in sizes.items()}, truth, report


@pytest.mark.parametrize(
    ("kind", "advice"), [("huge", "MADV_HUGEPAGE"), ("small", "MADV_NOHUGEPAGE"), ("off", "MADV_HUGEPAGE")]
)
def test_transparent_huge_pages(program, trace, kind, advice):
    sizes, truth, report = resident(trace([program("pages.c"), kind, 8 * HUGE], options=["--page-sizes"]))
    assert sizes.get(HUGE, 0) == truth["huge"] == (8 * HUGE if kind == "huge" else 0)
    assert sum(sizes.values()) == truth["rss"] == 8 * HUGE
    pages = report.places.pages
    assert pages.advised.set_index("advice")["advised_bytes"].to_dict() == {advice: 8 * HUGE}
    (asked,) = report.recording.meta["huge_pages_asked"].values()
    assert asked["thp_enabled"] is (kind != "off")
    anonymous = pages.resident[
        pages.resident["region"].str.startswith("anonymous") & (pages.resident["moment"] == "end")
    ]
    assert anonymous["resident_bytes"].sum() >= 8 * HUGE
    assert not anonymous["file"].any()


def test_both_ways_to_look_agree(program):
    """PAGEMAP_SCAN has the places as well, smaps only the sizes."""
    with subprocess.Popen(["sleep", "60"]) as process:
        time.sleep(0.3)
        for _ in range(3):  # a uprobe that anyone places in a library meanwhile makes a page of the file anonymous
            scanned = sums(page_sizes.resident_rows(process.pid, "end", folios=False))
            by_folio = sums(page_sizes.resident_rows(process.pid, "end", folios=True))
            told = sums([run._asdict() for run in page_sizes._from_smaps(process.pid)])
            if scanned == told:
                break
        process.kill()
    assert scanned == told
    assert sum(by_folio.values()) == sum(scanned.values())


def sums(rows):
    found = defaultdict(int)
    for row in rows:
        is_file = row.get("file", row.get("is_file"))
        if row["begin"] < 1 << 47 and row["page_bytes"] >= 4096:
            found[is_file] += row["end"] - row["begin"]
    return dict(found)


def test_pages_with_gaps_between(program, trace):
    with (
        open("/proc/self/pagemap", "rb", buffering=0) as pagemap,
        mmap.mmap(-1, 400 * 4096, flags=mmap.MAP_PRIVATE) as area,
    ):
        area.madvise(mmap.MADV_NOHUGEPAGE)
        touched = [*range(3, 19), *range(200, 331)]
        for page in touched:
            area[page * 4096] = 1
        view = ctypes.c_char.from_buffer(area)
        begin = ctypes.addressof(view)
        del view
        inside = [
            range((one - begin) // 4096, (end - begin) // 4096)
            for one, end, _ in page_sizes._scan(pagemap.fileno())
            if begin <= one < begin + 400 * 4096
        ]
    assert [page for run in inside for page in run] == touched


@pytest.fixture
def pool():
    before = POOL.read_text()
    POOL.write_text("7")
    if int(POOL.read_text()) < 7:
        pytest.skip("no room for seven huge pages")
    yield
    POOL.write_text(before)


def test_hugetlb(program, trace, pool):
    sizes, truth, report = resident(trace([program("pages.c"), "hugetlb", 5 * HUGE], options=["--page-sizes"]))
    assert sizes == {HUGE: 5 * HUGE}
    assert truth["pool"] == 5 * HUGE
    rows = report.places.pages.resident
    assert rows[rows["region"] == "hugetlb memory"]["resident_bytes"].sum() == 5 * HUGE


def test_huge_pages_that_were_not_given_are_found(program, trace):
    _, _, report = resident(trace([program("pages.c"), "off", 16 * HUGE], options=["--page-sizes"]))
    (found,) = [one for one in report.findings if one.rule == "huge_pages_not_given"]
    assert found.figure == 0
    assert "prctl" in found.evidence[1]


def test_collapses(program, trace):
    """Blocks that MADV_COLLAPSE made huge pages of, as the program was told."""
    traced = trace([program("collapse.c"), 7])
    (truth,) = traced.lines
    if not truth["made"]:
        pytest.skip("this kernel has no MADV_COLLAPSE, or no room for huge pages")
    table = build_report(traced.recording).collapses
    assert table[(table["result"] == "made") & (table["what"] == "anonymous")]["n"].sum() == truth["made"] == 7
    assert traced.recording.meta["vmstat"]["thp_collapse_alloc"] >= 7
