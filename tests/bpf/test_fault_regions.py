"""Faults by region, layer and tensor, against programs whose faults are known."""

import os
import random
import re
import shutil
import sys

import pandas as pd
import pytest
from model_files import SPACING, write_spaced

from bitnet_trace.analysis.report import build_report
from bitnet_trace.demo.model import SIZES, write
from bitnet_trace.recording.layout import Kind

pytestmark = pytest.mark.untimed

PAGE = 4096
SUMS = ["faults_minor", "faults_major", "faults_kernel", "faults_populate", "fault_ns", "populated_bytes"]


def places_of(traced):
    traced.assert_nothing_lost()
    report = build_report(traced.recording)
    sums = report.places.by_region[SUMS].sum()
    assert sums.to_dict() == {name: int(report.total[name].iloc[0]) for name in SUMS}
    return report.places


def unknown(places):
    rows = places.by_region[places.by_region["region"] == "unknown"]
    return int(rows[["faults_minor", "faults_major"]].sum().sum())


def test_one_page_in_each_of_1009_tensors(tmp_path, program, trace):
    model = tmp_path / "synthetic.gguf"
    tensors = write_spaced(model, 1013)
    chosen = random.Random(3).sample(tensors, 1009)
    offsets = tmp_path / "offsets"
    offsets.write_text("".join(f"{offset + random.Random(offset).randrange(SPACING)}\n" for _, offset in chosen))
    places = places_of(trace([program("touch.c"), model, offsets]))
    touched = places.by_tensor
    assert (touched["faults_minor"] + touched["faults_major"]).tolist() == [1] * 1009
    assert set(touched["tensor"]) == {name for name, _ in chosen}
    assert set(touched["type"]) == {"I2_S"}
    assert [f"blk.{layer}." for layer in touched["layer"]] == [
        re.match(r"blk\.\d+\.", one)[0] for one in touched["tensor"]
    ]
    assert places.by_layer[["faults_minor", "faults_major"]].sum().sum() == 1009
    assert unknown(places) < 20  # the kernel's own, while it sets up a new program


def test_a_model_that_was_replaced_has_no_tensors(tmp_path, program, trace):
    model = tmp_path / "replaced.gguf"
    tensors = write_spaced(model, 11)
    offsets = tmp_path / "offsets"
    offsets.write_text("".join(f"{offset}\n" for _, offset in tensors))
    shutil.copy(model, tmp_path / "other")
    script = f"{program('touch.c')} {model} {offsets}; mv {tmp_path}/other {model}"
    places = places_of(trace(["sh", "-c", script]))
    assert not len(places.by_tensor)
    rows = places.by_region[places.by_region["path"] == str(model)]
    assert rows[["faults_minor", "faults_major"]].sum().sum() == 11


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write(path, SIZES["tiny"])
    os.sync()  # pages that are to be written cannot be dropped from the cache
    return path


def decode(model, *options):
    program = [sys.executable, "-I", "-m", "bitnet_trace.demo.decode", model]
    return [*program, "--prompt-tokens=8", "--tokens=3", "--threads=2", *options]


def test_a_populated_model(demo_model, trace):
    places = places_of(trace(decode(demo_model)))
    row = places.by_region[places.by_region["path"] == str(demo_model)].iloc[0]
    assert row["populated_bytes"] == -(-demo_model.stat().st_size // PAGE) * PAGE
    assert row["phases"]["load"]["populated_bytes"] == row["populated_bytes"]
    assert (places.by_tensor["populated_bytes"] == places.by_tensor["tensor_bytes"]).all()
    assert unknown(places) < 20


def test_a_model_that_faults(demo_model, program, trace):
    """Each tensor that owns a whole page is touched there, by a fault of its own."""
    preload = program("cold.c", "-shared", "-fPIC")
    traced = trace(decode(demo_model), env={"LD_PRELOAD": str(preload)})
    places = places_of(traced)
    tensors = traced.recording.tensors
    first = (tensors["offset"] + PAGE - 1) // PAGE * PAGE
    whole = tensors[first + PAGE <= tensors["offset"] + tensors["size_bytes"]]
    whole = whole[whole["name"] != "token_embd.weight"]  # of which the words of the prompt are read only
    faulted = places.by_tensor.set_index("tensor")
    assert set(whole["name"]) <= set(faulted.index)
    counts = (faulted["faults_minor"] + faulted["faults_major"]).reindex(whole["name"])
    pages = (whole["offset"] + whole["size_bytes"] - first.loc[whole.index]) // PAGE
    assert (counts.to_numpy() >= pages.to_numpy(dtype=int)).all()
    layers = faulted["layer"].reindex(whole["name"]).astype("Int64")
    expected = pd.array(
        [int(name.split(".")[1]) if name.startswith("blk.") else pd.NA for name in whole["name"]], "Int64"
    )
    assert layers.equals(pd.Series(expected, index=layers.index, name="layer"))


def test_memory_that_moves(program, trace):
    """Faults are known after mmap, mremap, munmap, fork and at a place that was something else before."""
    traced = trace([program("moving.c")])
    places = places_of(traced)
    (truth,) = traced.lines
    by_name = places.by_region.groupby("region")[["faults_minor"]].sum()["faults_minor"]
    assert by_name["shared memory"] == truth["shared"]
    anonymous = by_name.filter(like="anonymous").sum()
    assert truth["anonymous"] <= anonymous <= truth["anonymous"] + 40
    assert by_name["thread stack"] >= truth["stack"]
    assert unknown(places) < 20


def test_a_model_that_is_read(demo_model, trace):
    """Every byte of every tensor was read, and none of the model was mapped."""
    traced = trace(decode(demo_model, "--no-mmap"))
    places = places_of(traced)
    row = places.by_region[places.by_region["path"] == str(demo_model)].iloc[0]
    assert not row[["faults_minor", "faults_major", "faults_populate", "populated_bytes"]].any()
    read = places.by_tensor.set_index("tensor")
    assert set(read.index) == set(traced.recording.tensors["name"])
    assert (read["read_once_bytes"] == read["tensor_bytes"]).all()
    assert (read["read_bytes"] >= read["tensor_bytes"]).all()  # a C library's buffer is filled again after each seek
    assert row["read_bytes"] <= traced.recording.events["arg1"][traced.recording.events["kind"] == Kind.READ].sum()
