"""The embedded workload's model: a ternary (TQ2_0) llama with random weights, written as GGUF.

Its text is noise, its work is real: the same mapping, the same matrix kernels and the same memory traffic per token as
a trained model of that shape. The bytes depend on nothing but the spec, so two machines run the same thing.
"""

import hashlib
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from bitnet_trace.demo import CONTROL_TOKENS
from bitnet_trace.errors import TraceError

FORMAT = 1  # part of the cache's key: raise it when the same spec gives other bytes
_BLOCK = 256  # weights in a TQ2_0 block: 64 bytes of 2-bit values, then an fp16 scale (ggml-common.h, block_tq2_0)
_BLOCK_BYTES = 66
_SEED = 1009
_RMS_EPSILON = 1e-5

_UNKNOWN, _BEGIN, _END = range(CONTROL_TOKENS)


@dataclass(frozen=True)
class Spec:
    """A llama architecture. `width`, `ffn` and `width * kv_heads / heads` are multiples of 256 or divide it."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int

    def key(self) -> str:
        """12 hexadecimal digits that differ when the bytes of the model do."""
        text = repr((FORMAT, _SEED, sorted(asdict(self).items())))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


SIZES = {
    "default": Spec(layers=16, width=1024, ffn=2816, heads=8, kv_heads=4, vocabulary=4096, context=4096),
    "tiny": Spec(layers=8, width=256, ffn=512, heads=4, kv_heads=2, vocabulary=1024, context=1024),
}


class _TernaryWeights:
    """A stream of random TQ2_0 matrices.

    Only the raw words of PCG64 are used: numpy keeps those the same for ever, the distributions it does not (NEP 19).
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        # Four ternary digits a byte, two bits each, value 3 never: the 81 legal bytes, spread over the 256 random ones.
        legal = [byte for byte in range(256) if all((byte >> shift) & 3 != 3 for shift in (0, 2, 4, 6))]
        self._legal = np.resize(np.array(legal, dtype=np.uint8), 256)

    def matrix(self, rows: int, columns: int) -> NDArray[np.uint8]:
        """`rows` × `columns` weights as `rows` × bytes; a unit-variance input gives a unit-variance output."""
        blocks = rows * columns // _BLOCK
        out = np.empty((blocks, _BLOCK_BYTES), dtype=np.uint8)
        words = self._bits.random_raw(blocks * (_BLOCK_BYTES - 2) // 8)
        out[:, :-2] = self._legal[words.astype("<u8", copy=False).view(np.uint8)].reshape(blocks, -1)
        scale = np.float16((1.5 / columns) ** 0.5)  # two weights of three are ±1
        out[:, -2:] = np.frombuffer(struct.pack("<e", scale), dtype=np.uint8)
        return out.reshape(rows, -1)

    def embedding(self, rows: int, columns: int) -> NDArray[np.float16]:
        """`rows` × `columns` values of fp16, uniform in [-0.5, 0.5)."""
        words = self._bits.random_raw(rows * columns // 4)
        raw = words.astype("<u8", copy=False).view("<u2").astype(np.float32)
        return (raw / 65536.0 - 0.5).astype(np.float16).reshape(rows, columns)


def _tokens(count: int) -> tuple[list[str], list[float], list[int]]:
    """A SentencePiece vocabulary: control tokens, the 256 bytes (any text can be tokenised), and made-up words."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    for index in range(count - len(names)):
        first, second = divmod(index, len(syllables))
        names.append("\u2581" + syllables[first % len(syllables)] + syllables[second])
        kinds.append(gguf.TokenType.NORMAL)
    return names, [-float(index) for index in range(count)], [int(kind) for kind in kinds]


def _tensors(spec: Spec) -> Iterator[tuple[str, NDArray[np.generic], gguf.GGMLQuantizationType]]:
    weights = _TernaryWeights(_SEED)
    ternary, single = gguf.GGMLQuantizationType.TQ2_0, gguf.GGMLQuantizationType.F32
    kv_width = spec.width * spec.kv_heads // spec.heads
    matrices = {
        "attn_q": (spec.width, spec.width),
        "attn_k": (kv_width, spec.width),
        "attn_v": (kv_width, spec.width),
        "attn_output": (spec.width, spec.width),
        "ffn_gate": (spec.ffn, spec.width),
        "ffn_up": (spec.ffn, spec.width),
        "ffn_down": (spec.width, spec.ffn),
    }
    norm = np.ones(spec.width, dtype=np.float32)
    # No output.weight: the embedding is tied, as in BitNet-2B-4T.
    yield "token_embd.weight", weights.embedding(spec.vocabulary, spec.width), gguf.GGMLQuantizationType.F16
    yield "output_norm.weight", norm, single
    for layer in range(spec.layers):
        yield f"blk.{layer}.attn_norm.weight", norm, single
        yield f"blk.{layer}.ffn_norm.weight", norm, single
        for name, (rows, columns) in matrices.items():
            yield f"blk.{layer}.{name}.weight", weights.matrix(rows, columns), ternary


def write(path: Path, spec: Spec) -> None:
    """Write the model of `spec` to `path` (about a second for the default one)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("bitnet-trace demo (random weights)")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.width)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(_RMS_EPSILON)
    writer.add_rope_dimension_count(spec.width // spec.heads)
    writer.add_vocab_size(spec.vocabulary)

    names, scores, kinds = _tokens(spec.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_bos_token_id(_BEGIN)
    writer.add_eos_token_id(_END)
    writer.add_add_bos_token(True)

    for name, data, kind in _tensors(spec):
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cached(size: str, cache: Path) -> Path:
    """The model of that size in the folder `cache`, written there unless it already is.

    Its name is `SIZE-KEY-BYTES.gguf`: one that was written for another spec, or cut short, is not taken. Runs at once
    may each write it; the last rename wins, with the same bytes.

    Raises TraceError when the folder belongs to someone else or others may write to it.
    """
    spec = SIZES[size]
    _private_folder(cache)
    for found in cache.glob(f"{size}-{spec.key()}-*.gguf"):
        info = found.lstat()
        if stat.S_ISREG(info.st_mode) and found.stem.rpartition("-")[2] == str(info.st_size):
            return found
    # mkstemp creates with O_EXCL and mode 0600: no link that waits there is followed.
    handle, name = tempfile.mkstemp(prefix=f".{size}-", suffix=".gguf", dir=cache)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary, spec)
        final = cache / f"{size}-{spec.key()}-{temporary.stat().st_size}.gguf"
        temporary.rename(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return final


def _private_folder(folder: Path) -> None:
    """Make `folder` (mode 0700), or check that it is ours and no one else may write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.stat()
    if info.st_uid != os.geteuid():
        raise TraceError(f"{folder} belongs to another user", "set XDG_CACHE_HOME to a folder of your own")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TraceError(f"others may write to {folder}", f"chmod go-w {folder}")


def main() -> None:
    """`python -m bitnet_trace.demo.model SIZE` prints the path of the cached model, or one line on stderr."""
    _, size = sys.argv
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    try:
        print(cached(size, Path(base) / "bitnet-trace"))
    except TraceError as error:
        sys.exit(f"{error.message}; {error.hint}")
    except OSError as error:
        sys.exit(f"the demo's model cannot be written: {error.filename or base}: {error.strerror}")


if __name__ == "__main__":
    main()
