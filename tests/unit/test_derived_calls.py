"""Calls of hot kernels from the shapes of a model's matrices."""

import pandas as pd
import pytest

from bitnet_trace.analysis.calls import derived
from bitnet_trace.demo.model import SIZES
from bitnet_trace.engines.kernels import known_kernels
from bitnet_trace.engines.probes import Kernel

KERNEL = Kernel(("dot",), ("I2_S",), 1)


def tensors(*rows):
    return pd.DataFrame(rows, columns=["name", "type_name", "rows"])


def test_rows_of_the_matrices_of_the_type():
    table = tensors(
        ("blk.0.attn_q.weight", "I2_S", 101), ("blk.0.ffn_down.weight", "I2_S", 53), ("blk.0.ffn_up.weight", "Q4_0", 7),
        ("blk.0.attn_norm.weight", "F32", 1), ("token_embd.weight", "F16", 1009),
    )  # fmt: skip
    assert derived(table, KERNEL) == 101 + 53
    assert derived(table, Kernel(("dot",), ("I2_S", "Q4_0"), 1)) == 101 + 53 + 7
    assert derived(table, Kernel(("dot",), ("I2_S",), 2)) == (101 + 53) // 2
    assert derived(table, Kernel(("dot",), ("TQ1_0",), 1)) is None


def test_an_embedding_is_multiplied_with_only_where_there_is_no_output():
    embedding, output = ("token_embd.weight", "I2_S", 1009), ("output.weight", "I2_S", 997)
    query = ("blk.3.attn_q.weight", "I2_S", 31)
    assert derived(tensors(query, embedding), KERNEL) == 31 + 1009
    assert derived(tensors(query, embedding, output), KERNEL) == 31 + 997


@pytest.mark.parametrize("name", ["blk.0.ffn_up_exps.weight", "blk.0.ssm_in.weight", "per_layer_model_proj.weight"])
def test_what_is_not_multiplied_once_a_token_is_not_derived(name):
    assert derived(tensors(("blk.0.attn_q.weight", "I2_S", 31), (name, "I2_S", 8)), KERNEL) is None


def test_several_models_are_not_told_apart():
    query = ("blk.3.attn_q.weight", "I2_S", 31)
    assert derived(tensors(query, query), KERNEL) is None
    assert derived(tensors(), KERNEL) is None


def test_the_kernels_of_the_probe_files():
    names = {name for kernel in known_kernels() for name in kernel.names}
    assert {"ggml_vec_dot_i2_i8_s", "ggml_vec_dot_tq2_0_q8_K"} <= names


def demo_rows(size):
    spec = SIZES[size]
    kv = spec.width * spec.kv_heads // spec.heads
    return spec.layers * (2 * spec.width + 2 * kv + 2 * spec.ffn + spec.width)


def test_the_demo_model():
    assert demo_rows("default") == 155_648
