"""The embedded model: its bytes, its cache, and that an independent reader agrees about both."""

import hashlib

import gguf
import numpy as np
import pytest

from bitnet_trace.demo import FIRST_WORD, decode, model
from bitnet_trace.errors import TraceError

TINY = model.SIZES["tiny"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    model.write(path, TINY)
    return path


def test_bytes_are_the_same_each_time(tiny, tmp_path):
    again = tmp_path / "again.gguf"
    model.write(again, TINY)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(tiny.read_bytes()).digest()


def test_weights_are_ternary_and_keep_the_variance(tiny):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny).tensors}
    down = tensors["blk.3.ffn_down.weight"]
    assert down.tensor_type == gguf.GGMLQuantizationType.TQ2_0
    weights = gguf.quants.dequantize(down.data, down.tensor_type)
    assert weights.shape == (TINY.width, TINY.ffn)
    scale = np.abs(weights).max()
    assert set(np.unique(weights / scale)) == {-1.0, 0.0, 1.0}
    assert weights.var() * TINY.ffn == pytest.approx(1.0, rel=0.02)


def test_shape_and_vocabulary(tiny):
    reader = gguf.GGUFReader(tiny)
    field = reader.get_field
    assert field("general.architecture").contents() == "llama"
    assert field("llama.block_count").contents() == TINY.layers
    tokens = field("tokenizer.ggml.tokens").contents()
    assert len(tokens) == len(set(tokens)) == TINY.vocabulary
    assert tokens[3] == "<0x00>"
    assert tokens[FIRST_WORD - 1] == "<0xFF>"
    layer = {tensor.name.split(".", 2)[2] for tensor in reader.tensors if tensor.name.startswith("blk.7.")}
    assert len(layer) == 9


def test_a_second_request_takes_the_cached_file(tmp_path):
    first = model.cached("tiny", tmp_path / "cache")
    before = first.stat()
    assert model.cached("tiny", tmp_path / "cache") == first
    assert first.stat().st_ino == before.st_ino
    assert before.st_mode & 0o077 == 0
    assert list(first.parent.iterdir()) == [first]


def test_a_file_that_was_cut_short_is_written_again(tmp_path):
    first = model.cached("tiny", tmp_path)
    size = first.stat().st_size
    with first.open("r+b") as file:
        file.truncate(size // 2)
    assert model.cached("tiny", tmp_path).stat().st_size == size


def test_a_link_in_the_cache_is_not_followed(tmp_path):
    first = model.cached("tiny", tmp_path / "cache")
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * first.stat().st_size)
    first.unlink()
    first.symlink_to(precious)
    again = model.cached("tiny", tmp_path / "cache")
    assert not again.is_symlink()
    assert precious.read_bytes() == b"x" * precious.stat().st_size


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(TraceError, match="others may write"):
        model.cached("tiny", cache)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "write", lambda path, spec: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        model.cached("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_spec_has_another_key():
    assert len({spec.key() for spec in model.SIZES.values()}) == len(model.SIZES)


@pytest.mark.parametrize("size", model.SIZES)
def test_the_prompt_is_words_of_the_vocabulary(size):
    tokens = decode.prompt(1000)
    assert len(tokens) == 1000
    assert min(tokens) >= FIRST_WORD
    assert max(tokens) < model.SIZES[size].vocabulary


def test_timing_lines_are_those_of_llama_cpp():
    lines = decode.timing_lines({"prompt_ms": 300.05, "prompt_n": 32, "predicted_ms": 651.94, "predicted_n": 32})
    each = "slot print_timing: id 0 | task 0 | {}".format
    assert [" ".join(line.split()) for line in lines] == [
        each("prompt eval time = 300.05 ms / 32 tokens ( 9.38 ms per token, 106.65 tokens per second)"),
        each("eval time = 651.94 ms / 32 tokens ( 20.37 ms per token, 49.08 tokens per second)"),
        each("total time = 951.99 ms / 64 tokens"),
    ]


def test_one_token_needs_no_decode_step():
    timings = {"prompt_ms": 2.0, "prompt_n": 3, "predicted_ms": 0.0, "predicted_n": 1}
    assert decode.timing_lines(timings)[1].endswith("0.00 ms /     1 tokens")


def test_the_engine_loads_it_and_generates_so_many_tokens(tiny):
    pytest.importorskip("xllamacpp")
    timings = decode.generate(str(tiny), prompt_tokens=7, tokens=5, threads=1)
    assert (timings["prompt_n"], timings["predicted_n"]) == (7, 5)
    assert timings["prompt_ms"] > 0
