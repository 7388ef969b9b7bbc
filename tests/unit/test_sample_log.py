import numpy as np

from bitnet_trace.capture.samples import SampleLog
from bitnet_trace.recording.layout import SAMPLE_DTYPE


def samples(*stacks):
    """Of process 7: (kernel frames, user frames) each."""
    batch = np.zeros(len(stacks), SAMPLE_DTYPE)
    batch["pid"] = 7
    for row, (kernel, user) in zip(batch, stacks, strict=True):
        row["kernel"][: len(kernel)], row["user"][: len(user)] = kernel, user
    return batch


def test_each_different_stack_is_kept_once():
    log = SampleLog()
    rows, stacks = log.fold(samples(([], [0x1000, 0x2000]), ([], [0x1000, 0x2001]), ([], [0x1000, 0x2000])))
    assert rows["stack"].tolist() == [0, 1, 0]
    assert stacks["stack"].tolist() == [0, 0, 1, 1]
    rows, stacks = log.fold(samples(([], [0x1000, 0x2001]), ([], [0x3000])))
    assert rows["stack"].tolist() == [1, 2]
    assert stacks["stack"].tolist() == [2]
    assert log.addresses == {7: {0x1000, 0x1FFF, 0x2000, 0x3000}}


def test_a_view_keeps_no_addresses():
    """Garbage in place of frame pointers makes ever new ones."""
    log = SampleLog(keeps_addresses=False)
    _, stacks = log.fold(samples(([], [0x1000, 0x2000])))
    assert stacks["address"].tolist() == [0x1000, 0x1FFF]
    assert not log.addresses


def test_the_same_frames_elsewhere_are_another_stack():
    high = 1 << 63
    frames = [([high], []), ([], [high]), ([], [1, 2]), ([], [2, 1]), ([], [1]), ([], [1 << 47]), ([high, high], [])]
    rows, _ = SampleLog().fold(samples(*frames))
    assert rows["stack"].tolist() == list(range(len(frames)))
    other = samples(([high], []))
    other["pid"] = 8
    both = SampleLog().fold(np.concatenate([other, samples(([high], []))]))[0]
    assert both["stack"].tolist() == [0, 1]


def test_a_million_random_pairs_of_pages_have_no_digest_in_common():
    log = SampleLog()
    random = np.random.default_rng(1)
    batch = samples(*[([], [])] * 3000)
    batch["user"][:, :2] = random.choice(1 << 20, (3000, 2), replace=False) << 12
    rows, _ = log.fold(batch)
    assert len(set(rows["stack"].tolist())) == 3000
