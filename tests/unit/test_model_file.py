"""Tensor tables of GGUF files: whole, of forks, damaged."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import SPACING, header, text, write_spaced

from bitnet_trace.demo.model import SIZES, write
from bitnet_trace.engines.buffers import parse_buffers
from bitnet_trace.engines.model_file import Tensor, is_model, tensors
from bitnet_trace.errors import TraceError


def table(path):
    with path.open("rb") as file:
        assert is_model(file)
        return tensors(file, "model.gguf")


def test_the_demos_model_as_its_own_library_reads_it(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    write(path, SIZES["tiny"])
    expected = [
        Tensor(
            one.name,
            int(one.tensor_type),
            one.tensor_type.name,
            int(one.n_elements),
            int(one.n_elements) // int(one.shape[0]),
            int(one.data_offset),
            int(one.n_bytes),
        )
        for one in gguf.GGUFReader(path).tensors
    ]
    assert table(path) == sorted(expected, key=lambda one: one.offset)


@pytest.mark.parametrize(("number", "name"), [(36, "I2_S"), (135, "IQ2_BN"), (39, "TL2"), (77, None), (0, None)])
def test_types_of_forks_reach_to_the_next_tensor(tmp_path, number, name):
    """Also a number that is known, but whose size does not fit: F32 would be 16 times as large."""
    places = write_spaced(tmp_path / "m.gguf", 5, number)
    found = table(tmp_path / "m.gguf")
    assert [(one.name, one.offset) for one in found] == places
    assert {(one.type, one.type_name, one.size_bytes) for one in found} == {(number, name, SPACING)}


def test_big_endian(tmp_path):
    path = tmp_path / "m.gguf"
    parts = [b"GGUF", struct.pack(">IQQ", 3, 1, 1), struct.pack(">Q", 3), b"key", struct.pack(">IB", 7, 1)]
    parts += [struct.pack(">Q", 6), b"tensor", struct.pack(">IQIQ", 1, 8, 0, 0)]
    data = b"".join(parts)
    path.write_bytes(data.ljust(-(-len(data) // 32) * 32 + 32, b"\0"))
    assert [(one.name, one.type_name, one.size_bytes) for one in table(path)] == [("tensor", "F32", 32)]


def test_a_vocabulary_has_no_tensors(tmp_path):
    (tmp_path / "m.gguf").write_bytes(header([]))
    assert table(tmp_path / "m.gguf") == []


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 62),
        header([("x", 1, 0, 1 << 40)]),
        b"\x7fELF",
    ],
)
def test_what_is_no_model(tmp_path, data):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(TraceError):
        tensors(file, str(path))


def test_an_empty_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert not is_model(file)
        with pytest.raises(TraceError):
            tensors(file, str(path))


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 8), st.booleans())
def test_damage_is_one_error(tmp_path_factory, seed, n_bytes, cut):
    generator = np.random.default_rng(seed)
    data = bytearray(header([(f"blk.{n}.x", 64, 36, n * 32) for n in range(20)], 32) + bytes(20 * 32))
    for place in generator.integers(4, len(data), n_bytes):
        data[place] = generator.integers(0, 256)
    if cut:
        del data[generator.integers(0, len(data)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data)
    found, refused = [], ""
    with path.open("rb") as file:
        try:
            found = tensors(file, "damaged.gguf")
        except TraceError as error:
            refused = error.message
    assert "\n" not in refused
    assert all(one.offset >= 0 and one.offset + one.size_bytes <= max(len(data), one.offset) for one in found)


def test_buffers_that_engines_print():
    said = """llm_load_tensors:        CPU buffer size =    66.28 MiB
llama_kv_cache_init:        CPU KV buffer size =    96.00 MiB
llama_new_context_with_model: KV self size  =   96.00 MiB, K (f16):   48.00 MiB, V (f16):   48.00 MiB
llama_new_context_with_model:        CPU  output buffer size =     0.02 MiB
llama_new_context_with_model:        CPU compute buffer size =    84.01 MiB
load_tensors:   CPU_Mapped model buffer size =    54.00 MiB
llama_kv_cache_init:        CPU KV buffer size =    96.00 MiB
"""
    assert parse_buffers(said) == [
        ("weights buffer", round(66.28 * 2**20)),
        ("KV cache", 96 << 20),
        ("output buffer", round(0.02 * 2**20)),
        ("compute buffer", round(84.01 * 2**20)),
        ("weights buffer", 54 << 20),
    ]
