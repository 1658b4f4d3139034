"""Files that a stranger made on purpose: links, archives, headers and sizes that lie.

Each is read as what it is or refused by a `UserError` that names it. None runs without end, takes memory
that its bytes do not have, runs code, or reads or writes outside its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_fuzz import KINDS, bytes_of

from lrt.errors import UserError
from lrt.evaluation.journal import Journal
from lrt.features.published import load_published
from lrt.models.gguf import convert
from lrt.steering.formats import read_control_vector, read_vector, write_control_vector, write_vectors
from lrt.steering.vectors import SteeringVector
from lrt.storage.cache import JSON, TENSORS, Cache
from lrt.storage.checkpoints import DurableCheckpoints
from lrt.storage.durable import LinkRefused, write_durably
from lrt.storage.sealed import opened, sealed, unsealed

CONTENT = b"somebody's own file\n"


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """An allocation of tens of gigabytes fails here instead of filling the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (48 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(read: Callable[[], Any], named: Path) -> None:
    """Read; what is raised is a `UserError` that names the path."""
    message = str(named)
    try:
        read()
    except UserError as error:
        message = str(error)
    assert str(named) in message
    assert len(message) < 5000


TARGETS: dict[str, Callable[[Path], Path]] = {
    "a file": lambda outside: outside,
    "nothing": lambda outside: outside.with_name("nothing"),
    "a folder": lambda outside: outside.parent,
    "a device": lambda _: Path("/dev/zero"),
    "a pipe": lambda outside: outside.with_name("pipe"),
}


@pytest.mark.parametrize("target", [*TARGETS, "itself"])
@pytest.mark.parametrize("name", list(KINDS))
def test_links_in_a_folder_lead_no_reading_or_writing_elsewhere(
    name: str, target: str, tmp_path: Path
) -> None:
    kind, folder, elsewhere = KINDS[name], tmp_path / "artifact", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "own").write_bytes(CONTENT)
    os.mkfifo(elsewhere / "pipe")
    kind.write(folder)
    for file in bytes_of(folder):
        file.unlink()
        file.symlink_to(file if target == "itself" else TARGETS[target](elsewhere / "own"))
        refused(lambda: kind.read(folder), folder)
        if name != "store":  # recording finds out what is missing
            kind.write(folder)
            kind.read(folder)
        assert (elsewhere / "own").read_bytes() == CONTENT
        assert sorted(path.name for path in elsewhere.iterdir()) == ["own", "pipe"]
        if name == "store":
            break


def test_planted_links_are_not_written_through(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_bytes(CONTENT)
    artifacts = tmp_path / "artifacts"
    cache, facts = Cache(artifacts), {"a": 1}
    path = cache.path("maps", facts, ".json")
    path.parent.mkdir(parents=True)

    def made() -> Any:
        return cache.resumed("maps", facts, lambda partial: str(write_durably(partial, b"x")), JSON)

    path.with_name(f"{path.name}.partial").symlink_to(own)
    path.symlink_to(tmp_path / "missing")
    assert made() == "None"
    path.unlink()
    lock = artifacts / "locks" / f"maps-{path.name}.lock"
    lock.unlink()
    lock.symlink_to(own)
    with pytest.raises(LinkRefused, match=str(lock)):
        made()
    journal = artifacts / "rows.jsonl"
    journal.symlink_to(own)
    with pytest.raises(LinkRefused, match=str(journal)):
        Journal(journal)
    # a name that this process will use for its temp file
    names: list[Path] = []

    def write(temp: Path) -> None:
        names.append(temp)
        temp.write_bytes(b"1")

    write_durably(artifacts / "b", write)
    names[0].symlink_to(own)
    write_durably(artifacts / "b", b"2")
    assert (artifacts / "b").read_bytes() == b"2"
    assert own.read_bytes() == CONTENT
    assert not (tmp_path / "missing").exists()


def safetensors(entries: dict[str, Any], data: bytes = bytes(64), length: int | None = None) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: list[int], end: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


HEADERS: dict[str, Callable[[str], bytes]] = {
    "length": lambda name: safetensors({name: entry([4], 16)}, length=2**63),
    "no object": lambda _: struct.pack("<Q", 2) + b"[]",
    "deep": lambda _: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "huge": lambda name: safetensors({name: entry([2**40, 2**20], 16)}),
    "wrapping": lambda name: safetensors({name: entry([2**32, 2**32], 0)}, b""),
    "empty": lambda name: safetensors({name: entry([2**40, 0], 0)}, b""),
    "emptier": lambda name: safetensors({name: entry([2**40, 2**40, 0], 0)}, b""),
    "scalar": lambda name: safetensors({name: entry([], 4)}, bytes(4)),
    "dtype": lambda name: safetensors({name: entry([16], 16, "BOOL")}, bytes(16)),
    "small dtype": lambda name: safetensors({name: entry([8], 4, "F4")}, bytes(4)),
    "eight bits": lambda name: safetensors({name: entry([2, 2], 4, "F8_E4M3")}, bytes(4)),
    "overlap": lambda name: safetensors({name: entry([4], 16), "other": entry([4], 16)}, bytes(16)),
    "path": lambda _: safetensors({"../../x": entry([4], 16)}, bytes(16)),
    "pickle": lambda _: pickle.dumps(print),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["map", "vector", "autoencoder"])
def test_tensors_that_lie_under_a_card_that_agrees(name: str, header: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    (card,), (weights,) = tmp_path.glob("*.json"), tmp_path.glob("*.safetensors")
    length = int.from_bytes(weights.read_bytes()[:8], "little")
    names = [key for key in json.loads(weights.read_bytes()[8 : 8 + length]) if key != "__metadata__"]
    contents: Any = unsealed(opened(card.read_bytes()))
    for tensor in names:
        data = HEADERS[header](tensor)
        weights.write_bytes(data)
        contents["weights"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        card.write_text(sealed(contents))
        refused(lambda: kind.read(tmp_path), tmp_path)


@pytest.mark.parametrize("header", HEADERS)
def test_cached_tensors_that_lie(header: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.path("vectors", {}, TENSORS.suffix)
    path.parent.mkdir()
    path.write_bytes(HEADERS[header]("x"))
    refused(lambda: cache.made_once("vectors", {}, dict, TENSORS), path)


@pytest.mark.parametrize("weights", ["/etc/passwd", "../../own", "..", "", "\0", "a" * 5000])
@pytest.mark.parametrize("name", ["map", "vector", "autoencoder"])
def test_a_card_that_names_another_file(name: str, weights: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    expected = kind.read(tmp_path)
    (card,) = tmp_path.glob("*.json")
    contents: Any = unsealed(opened(card.read_bytes()))
    contents["weights"]["file"] = weights
    card.write_text(sealed(contents))
    assert kind.read(tmp_path) == expected  # the name is for people


@pytest.mark.parametrize(
    "text",
    [
        '{"digest": "\\ud800", "format": "\\ud800"}',
        '{"a": ' * 50_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"format": 1, "format": 2}',
        "null",
    ],
    ids=["surrogate", "deep", "digits", "twice", "null"],
)
@pytest.mark.parametrize("name", [name for name in KINDS if name != "tensors"])
def test_cards_that_no_program_writes(name: str, text: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    (card,) = (file for file in bytes_of(tmp_path) if file.suffix in (".json", ".jsonl"))
    card.write_text(text)
    with pytest.raises(kind.error, match=str(tmp_path)):
        kind.read(tmp_path)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickles_run_no_code(tmp_path: Path) -> None:
    mark, checkpoint, archive = tmp_path / "ran", tmp_path / "last.ckpt", tmp_path / "params.npz"
    for save in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        save({"state_dict": Command(mark)}, checkpoint)
        refused(lambda: DurableCheckpoints().load_checkpoint(checkpoint), checkpoint)
    np.savez(archive, W_enc=np.array([Command(mark)], dtype=object))
    refused(lambda: load_published(archive), archive)
    archive.write_bytes(pickle.dumps(Command(mark)))
    refused(lambda: load_published(archive), archive)
    assert not mark.exists()


READ: dict[str, dict[str, Any]] = {
    "steering-vectors": {},
    "lm-eval": {},
    "hotwire": {"layer": 1},
    "vllm-lens": {},
    "tensors": {"layer": 1, "hook_point": "block output", "residual_norm": "stored"},
}
WRITE: dict[str, dict[str, Any]] = {
    "lm-eval": {"strength": 1.0, "blocks": "layers"},
    "vllm-lens": {"strength": 1.0},
    "hotwire": {"depth": 3},
}
VECTOR_FILES = [
    *((name, "v.pt") for name in ("steering-vectors", "lm-eval", "hotwire", "tensors")),
    ("vllm-lens", "v.json"),
    *(("tensors", f"v{suffix}") for suffix in (".safetensors", ".npz", ".npy")),
]


def read_foreign(name: str, file: Path) -> Any:
    return read_vector(file, name, model="m", **READ[name])


@pytest.mark.parametrize(("name", "suffix"), VECTOR_FILES)
def test_pickles_in_vector_files_run_no_code(name: str, suffix: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / suffix
    contents: list[Any] = [
        Command(mark),
        {"layer_activations": {1: Command(mark)}, "layer_type": "decoder_block"},
        {"layers.1": {"action": "add", "steering_vector": Command(mark)}},
    ]
    for content in contents:
        for save in (
            torch.save,
            lambda thing, path: torch.save(thing, path, _use_new_zipfile_serialization=False),
            lambda thing, path: path.write_bytes(pickle.dumps(thing)),
            lambda thing, path: np.savez(path.open("wb"), v=np.array([thing], dtype=object)),
            lambda thing, path: np.save(path.open("wb"), np.array([thing], dtype=object)),
        ):
            save(content, file)
            with pytest.raises(UserError, match=str(file)):
                read_foreign(name, file)
    assert not mark.exists()


@pytest.mark.parametrize(("name", "suffix"), VECTOR_FILES)
@pytest.mark.parametrize("target", [*TARGETS, "itself"])
def test_vector_files_that_lead_elsewhere(name: str, suffix: str, target: str, tmp_path: Path) -> None:
    own, file = tmp_path / "elsewhere" / "own", tmp_path / suffix
    own.parent.mkdir()
    own.write_bytes(CONTENT)
    os.mkfifo(own.with_name("pipe"))
    file.symlink_to(file if target == "itself" else TARGETS[target](own))
    with pytest.raises(UserError, match=str(file)):
        read_foreign(name, file)
    write_vectors(SteeringVector(torch.ones(4), 1, "m", 2.0), file, name, **WRITE.get(name, {}))
    assert len(read_foreign(name, file)) == 1
    assert own.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["steering-vectors", "lm-eval", "hotwire", "tensors"])
def test_vector_archives_that_lie(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch file that unpacks to more than is allowed, and one with less than its pickle says."""
    monkeypatch.setattr("lrt.storage.tensor_files.MOST_BYTES", 2**20)
    whole, file = tmp_path / "whole.pt", tmp_path / "v.pt"
    write_vectors(SteeringVector(torch.ones(4), 1, "m", 2.0), whole, name, **WRITE.get(name, {}))
    with zipfile.ZipFile(whole) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    (storage,) = (entry for entry in entries if entry.endswith("/data/0"))
    for content in (bytes(2**21), b"", entries[storage][:3]):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for entry, data in (entries | {storage: content}).items():
                archive.writestr(entry, data)
        with pytest.raises(UserError, match=str(file)):
            read_foreign(name, file)


def test_archives_that_lie(tmp_path: Path) -> None:
    archive = tmp_path / "params.npz"
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("W_enc.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (2**25,)}
        )
        for _ in range(2**3):
            member.write(bytes(2**24))
    assert archive.stat().st_size < 2**22
    with pytest.raises(UserError, match=str(archive)):
        load_published(archive)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../W_enc.npy", b"x")
        with file.open("b_enc.npy", "w") as member:
            shape = (2**50, 2**10)
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
    with pytest.raises(UserError, match=str(archive)):
        load_published(archive)
    assert list(tmp_path.iterdir()) == [archive]


FUZZ = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = [0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1]


def changed(content: bytearray, data: st.DataObject) -> bytes:
    """The bytes with some of the header's changed: a bit, or eight at once as a size has."""
    for _ in range(data.draw(st.integers(1, 3))):
        header = min(len(content), 8000)  # cuts shorten it
        at = data.draw(st.integers(0, header - 9))
        match data.draw(st.sampled_from(["bit", "size", "cut"])):
            case "bit":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "size":
                content[at : at + 8] = struct.pack("<Q", data.draw(st.sampled_from(NUMBERS)))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
    return bytes(content)


@FUZZ
@given(data=st.data())
def test_a_fuzzed_control_vector(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.getbasetemp() / "vector.gguf"
    vectors = [SteeringVector(torch.ones(8), layer, "m", 2.0) for layer in (1, 2)]
    write_control_vector(vectors, file)
    file.write_bytes(changed(bytearray(file.read_bytes()), data))
    refused(lambda: read_control_vector(file), file)


@pytest.mark.parametrize(("name", "suffix"), VECTOR_FILES)
@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_a_fuzzed_vector_file(
    name: str, suffix: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.getbasetemp() / suffix
    write_vectors(SteeringVector(torch.ones(8), 1, "m", 2.0), file, name, **WRITE.get(name, {}))
    file.write_bytes(changed(bytearray(file.read_bytes()), data))
    refused(lambda: read_foreign(name, file), file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", quantised=False, blocks=1).read_bytes()


def stating(content: bytes, key: str, number: int) -> bytes:
    """A GGUF file in which a key of 32 bits has another value."""
    at = content.find(key.encode()) + len(key) + 4
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("qwen2.block_count", 2**31 - 1),
        ("qwen2.block_count", 2**32 - 1),
        ("qwen2.embedding_length", 2**31 - 1),
        ("qwen2.embedding_length", 0),
        ("qwen2.feed_forward_length", 2**31 - 1),
        ("qwen2.attention.head_count", 0),
        ("qwen2.attention.head_count", 2**16),
        ("qwen2.attention.head_count_kv", 0),
    ],
)
def test_a_gguf_model_of_sizes_that_it_does_not_have(
    key: str, number: int, whole: bytes, tmp_path: Path
) -> None:
    file, out = tmp_path / "m.gguf", tmp_path / "out"
    out.mkdir()
    file.write_bytes(stating(whole, key, number))
    with pytest.raises(UserError, match=str(file)):
        convert(file, torch.float32, out)
    assert not list(out.iterdir())


KEYS = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
KEYS += ("attention.head_count_kv", "rope.freq_base", "attention.layer_norm_rms_epsilon")
TOKENIZER = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token")
EVERY = (*(f"qwen2.{key}" for key in KEYS), *TOKENIZER)


@pytest.mark.slow
@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_a_fuzzed_gguf_model(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Numbers of the header, its types, its texts, and the table of tensors."""
    folder = tmp_path_factory.mktemp("fuzzed")
    file, content = folder / "m.gguf", whole
    for _ in range(data.draw(st.integers(1, 2))):
        match data.draw(st.sampled_from(["number", "type", "text", "name", "anything"])):
            case "number":
                number = st.sampled_from(NUMBERS) | st.integers(0, 200)
                content = stating(content, data.draw(st.sampled_from(EVERY)), data.draw(number) % 2**32)
            case "type":
                at = content.find(data.draw(st.sampled_from(EVERY)).encode()) + 20
                content = content[:at] + bytes([data.draw(st.integers(0, 13))]) + content[at + 1 :]
            case "text":
                word = data.draw(st.sampled_from([b"gpt2", b"qwen2", b"<|im_end|>", b"onc e", b"{% for"]))
                other = data.draw(st.sampled_from([b"\xff", b"\0", b"z", b"{", b" "]))
                content = content.replace(word, other * len(word), data.draw(st.integers(1, 3)))
            case "name":
                at = content.find(b"blk.0.attn_q.weight") + data.draw(st.integers(0, 60))
                content = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
            case "anything":
                content = changed(bytearray(content), data)
    file.write_bytes(content)
    (folder / "out").mkdir()
    refused(lambda: convert(file, torch.float32, folder / "out"), file)
    assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "out"]
