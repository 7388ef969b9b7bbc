"""Timer samples as the recording keeps them: each different stack once."""

import secrets
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.schema import MOST_KNOWN, SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE


class SampleLog:
    """The samples of one recording. `addresses` are those of all stacks so far, by process, where they are kept."""

    def __init__(self, keeps_addresses: bool = True) -> None:
        self._keeps_addresses = keeps_addresses
        self._known: dict[tuple[int, int], int] = {}  # by a digest of 128 bits: long runs have many stacks
        self._next = 0
        self._factors = np.empty((0, 2), np.uint64)
        self.addresses: dict[int, set[int]] = defaultdict(set)

    def fold(self, batch: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
        """The rows of `batch`, a SAMPLE_DTYPE array: samples (SAMPLE_ROW_DTYPE), and new stacks (STACK_ROW_DTYPE)."""
        numbers, new = [], []
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        for place, digest in enumerate(map(tuple, self._digests(batch).tolist())):
            if digest not in self._known:
                self._known[digest] = self._next
                self._next += 1
                new.append(place)
            numbers.append(self._known[digest])
        rows = np.empty(len(batch), SAMPLE_ROW_DTYPE)
        for field in SAMPLE_ROW_DTYPE.names or ():
            rows[field] = numbers if field == "stack" else batch[field]
        stacks = _stacks(batch[new], rows["stack"][new])
        for pid in np.unique(stacks["pid"]).tolist() if self._keeps_addresses else ():
            self.addresses[pid].update(np.unique(stacks["address"][stacks["pid"] == pid]).tolist())
        return rows, stacks

    def forget(self, pid: int) -> None:
        """The names of a process's addresses are not asked for any more."""
        self.addresses.pop(pid, None)

    def _digests(self, batch: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
        """Two words for each sample: sums of the words of its stack, modulo 2^64, each times a factor of this run's."""
        words = np.column_stack([batch["pid"].astype(np.uint64), batch["kernel"], batch["user"]])
        words ^= words >> np.uint64(29)  # addresses are multiples of powers of two: those of a page differ in few bits
        if len(self._factors) != words.shape[1]:
            random = secrets.token_bytes(16 * words.shape[1])
            self._factors = np.frombuffer(random, np.uint64).reshape(-1, 2) | np.uint64(1)
        return words @ self._factors


def _stacks(samples: npt.NDArray[np.void], numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.void]:
    """A row for each frame of each sample, innermost first."""
    frames = np.concatenate([samples["kernel"], samples["user"]], axis=1)
    present = frames != 0
    # return addresses, less 1; the first is an instruction: of user mode, where the kernel was entered
    first_of_user = samples["kernel"].shape[1]
    frames[:, 1:first_of_user] -= 1
    frames[:, first_of_user + 1 :] -= 1
    sample, _ = present.nonzero()
    stacks = np.empty(len(sample), STACK_ROW_DTYPE)
    stacks["stack"], stacks["pid"] = numbers[sample], samples["pid"][sample]
    stacks["level"], stacks["address"] = (present.cumsum(axis=1) - 1)[present], frames[present]
    return stacks
