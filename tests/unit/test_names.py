"""Patterns of function names against what compilers write."""

from pathlib import Path

import pytest
from compiled import addresses_by_nm, compiled

from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.names import matches, needle, parse_symbol, pretty

DECODE_EXT = "_ZN13llama_context6decodeERK15llama_batch_ext"
LUT_KERNEL = "_Z29tbl_g4_int8_int32_update_implILi8ELi2EEiiPiPaPh"
IQK_KERNEL = "_ZN12_GLOBAL__N_120mul_mat_iq2bn_q8_K64ILi1EEEviPKv"


@pytest.mark.parametrize(
    ("pattern", "symbol"),
    [
        ("llama_decode", "llama_decode"),
        ("llama_decode", "llama_decode@@LLAMA_1.0"),
        ("llama_sample_token*", "llama_sample_token_greedy"),
        ("ggml_graph_compute_thread.isra.0", "ggml_graph_compute_thread.isra.0"),
        ("ggml_graph_compute_thread.*", "ggml_graph_compute_thread.constprop.0.isra.0"),
        ("llama_context::decode", DECODE_EXT),
        ("llama_context::decode(llama_batch_ext const&)", DECODE_EXT),
        ("llama_context::decode(llama_batch_ext const &)", DECODE_EXT),
        ("llama_context::set_warmup(bool)", "_ZN13llama_context10set_warmupEb"),
        ("llama_context::get_logits()", "_ZN13llama_context10get_logitsEv"),
        ("tbl_g4_int8_int32_update_impl", LUT_KERNEL),
        ("tbl_g4_int8_int32_update_impl<8, 2>", LUT_KERNEL),
        ("tbl_g4_int8_int32_update_*", LUT_KERNEL),
        ("(anonymous namespace)::mul_mat_iq2bn_q8_K64", IQK_KERNEL),
        ("ggml_vec_dot_i2_i8_s_1x1", "_Z24ggml_vec_dot_i2_i8_s_1x1iPfmPKvmS1_mi"),
        ("Wrapper::compute", "_ZN7WrapperIfiE7computeEPKvi"),
    ],
)
def test_means(pattern: str, symbol: str) -> None:
    assert matches(pattern, symbol)
    assert needle(pattern) in symbol.encode()


@pytest.mark.parametrize(
    ("pattern", "symbol"),
    [
        ("llama_decode", "llama_decode_internal"),
        ("llama_decode", "llama_decode.cold"),
        ("llama_sample_token*", "llama_sample_token_greedy.cold"),
        ("llama_decode", "_ZL21llama_decode_internalR13llama_context11llama_batch"),
        ("llama_context::decode", DECODE_EXT + ".cold"),
        ("llama_context::decode", DECODE_EXT + ".part.0"),
        ("llama_context::decode", "_ZZN13llama_context6decodeERK15llama_batch_extENKUlvE_clEv"),
        ("llama_context::decode", "_ZN5other13llama_context6decodeERK15llama_batch_ext"),
        ("llama_context::decode(llama_batch const&)", DECODE_EXT),
        ("llama_load_model_from_file", "_ZZ26llama_load_model_from_fileENUlfPvE_4_FUNEfS_"),
        ("tbl_g4_int8_int32_update_impl<16, 2>", LUT_KERNEL),
        ("decode", "_ZN13llama_context6decodeERK15llama_batch_ext"),
        ("llama_decode()", "llama_decode"),
    ],
)
def test_does_not_mean(pattern: str, symbol: str) -> None:
    assert not matches(pattern, symbol)


@pytest.mark.parametrize("symbol", ["_Z", "_ZN", "_ZNNNN", "_Z" + "N" * 5000, "_ZTV13llama_context", "_ZSt", "_Z9999x"])
def test_what_is_no_function_name_is_passed_over(symbol: str) -> None:
    assert parse_symbol(symbol) is None
    assert pretty(symbol) == symbol


def test_pretty_names_are_those_of_debuggers() -> None:
    assert pretty(LUT_KERNEL) == "tbl_g4_int8_int32_update_impl<8, 2>(int, int*, signed char*, unsigned char*)"
    assert pretty(IQK_KERNEL) == "(anonymous namespace)::mul_mat_iq2bn_q8_K64<1>(int, void const*)"


@pytest.mark.parametrize("flags", [(), ("-shared", "-fPIC"), ("-O0", "-g")], ids=" ".join)
def test_patterns_find_exactly_their_functions_in_a_compiled_program(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = compiled(tmp_path, "elf_names.cpp", *flags)
    addresses = addresses_by_nm(program, "-C")
    expected = {
        "engine::context::decode": [
            "engine::context::decode(batch const&)",
            "engine::context::decode(batch_ext const&)",
        ],
        "engine::context::decode(batch_ext const&)": ["engine::context::decode(batch_ext const&)"],
        "context::decode": [],
        "lut_kernel": ["int lut_kernel<8, 2>(int*)", "int lut_kernel<16, 4>(int*)"],
        "lut_kernel<16, 4>": ["int lut_kernel<16, 4>(int*)"],
        "(anonymous namespace)::hidden_kernel": ["(anonymous namespace)::hidden_kernel(int)"],
        "sampler_sample": ["sampler_sample(engine::context*, int)"],
    }
    assert any("{lambda" in name and "decode" in name for name in addresses), "the program has lost its lambda"
    with program.open("rb") as file:
        elf = Elf(file)
        for pattern, names in expected.items():
            candidates = elf.functions_containing([needle(pattern)])
            found = {one.address for one in candidates if matches(pattern, one.name)}
            assert found == {addresses[name] for name in names}, pattern
