"""Numbers that a GGUF file states and does not have make readers run and take memory without end."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.storage.gguf_file import GgufContents, GgufDamaged, check_gguf

HUGE = 2**62


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def header(
    tensors: int = 0, keys: int = 0, rest: bytes = b"", magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + rest


def array(kind: int, count: int, rest: bytes = b"") -> bytes:
    return text(b"a") + struct.pack("<IIQ", 9, kind, count) + rest


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


BAD = {
    "empty": b"",
    "magic": header(magic=b"GGML"),
    "version": header(version=9),
    "tensors": header(tensors=HUGE),
    "keys": header(keys=HUGE),
    "array of numbers": header(keys=1, rest=array(4, HUGE)),
    "array of texts": header(keys=1, rest=array(8, HUGE)),
    "array of arrays": header(keys=1, rest=array(9, 1, array(9, 1))),
    "array of nothing": header(keys=1, rest=array(77, 1)),
    "long key": header(keys=1, rest=struct.pack("<Q", HUGE)),
    "long text": header(keys=1, rest=text(b"a") + struct.pack("<IQ", 8, HUGE)),
    "type": header(keys=1, rest=text(b"a") + struct.pack("<II", 99, 1)),
    "key twice": header(keys=2, rest=2 * (text(b"a") + struct.pack("<II", 4, 1))),
    "name": header(keys=1, rest=text(b"\xff") + struct.pack("<II", 4, 1)),
    "dimensions": header(tensors=1, rest=tensor(shape=(1,) * 40)),
    "shape": header(tensors=1, rest=tensor(shape=(2**40, 2**40)) + bytes(64)),
    "wrapping shape": header(tensors=1, rest=tensor(shape=(2**32, 2**32)) + bytes(64)),
    "offset": header(tensors=1, rest=tensor(offset=HUGE) + bytes(64)),
    "tensor twice": header(tensors=2, rest=2 * tensor() + bytes(64)),
    "cut": header(tensors=1, rest=tensor()[:-3]),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_broken_structure_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(GgufDamaged) as caught:
        check_gguf(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_a_whole_file_tells_what_it_holds(endian: gguf.GGUFEndian, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama", endianess=endian)
    writer.add_block_count(2)
    writer.add_float32("f", 0.5)
    writer.add_bool("b", True)
    writer.add_array("n", [1, 2, 3])
    writer.add_array("w", ["x", "yy"])
    writer.add_tensor("t", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = {"general.architecture": "llama", "llama.block_count": 2, "f": 0.5, "b": True, "n": 3, "w": 2}
    assert check_gguf(file) == GgufContents(metadata, {"t": (3, 2)})
    assert check_gguf(file).numbers == 6


@settings(max_examples=200, deadline=None)
@given(content=st.builds(header, st.integers(0, 3), st.integers(0, 3), st.binary(max_size=200)))
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.gguf"
    file.write_bytes(content)
    message = str(file)
    try:
        check_gguf(file)
    except GgufDamaged as error:
        message = str(error)
    assert str(file) in message
