"""Timer samples as the recording keeps them: each different stack once."""

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from bitnet_trace.recording.schema import SAMPLE_ROW_DTYPE, STACK_ROW_DTYPE


class SampleLog:
    """The samples of one recording. `addresses` are those of all stacks so far, by process."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self.addresses: dict[int, set[int]] = defaultdict(set)

    def fold(self, batch: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
        """The rows of `batch`, a SAMPLE_DTYPE array: samples (SAMPLE_ROW_DTYPE), and new stacks (STACK_ROW_DTYPE)."""
        words = np.concatenate([batch["pid"][:, None].astype(np.uint64), batch["kernel"], batch["user"]], axis=1)
        unique, first, code = np.unique(
            np.ascontiguousarray(words).view(np.dtype((np.void, words.itemsize * words.shape[1]))).ravel(),
            return_index=True,
            return_inverse=True,
        )
        numbers = np.empty(len(unique), np.uint32)
        stacks = [np.empty(0, STACK_ROW_DTYPE)]
        for place, key in enumerate(unique):
            name = key.tobytes()
            if name not in self._known:
                self._known[name] = len(self._known)
                stacks.append(self._stack(self._known[name], batch[first[place]]))
            numbers[place] = self._known[name]
        rows = np.empty(len(batch), SAMPLE_ROW_DTYPE)
        for field in SAMPLE_ROW_DTYPE.names or ():
            rows[field] = numbers[code] if field == "stack" else batch[field]
        return rows, np.concatenate(stacks)

    def _stack(self, number: int, sample: np.void) -> npt.NDArray[np.void]:
        parts = [sample[part][sample[part] != 0] for part in ("kernel", "user")]
        for part in parts:
            part[1:] -= np.uint64(1)  # the first is an instruction: of user mode, where the kernel was entered
        frames = np.concatenate(parts)
        pid = int(sample["pid"])
        self.addresses[pid].update(frames.tolist())
        stack = np.empty(len(frames), STACK_ROW_DTYPE)
        stack["stack"], stack["pid"] = number, pid
        stack["level"], stack["address"] = np.arange(len(frames)), frames
        return stack
