"""A packed corpus comes back as it was, or not at all."""

import re
from pathlib import Path

import numpy as np
import pytest

from lrt.corpora import PACKED, SPLITS, PackedCorpus, Sequences, text_id
from lrt.storage.cache import CacheCorrupt

TEXTS = [(text_id(text), text) for text in ("One\ntext.", "Ein anderer, mit Umlaut: ü.", "🙂")]


def corpus(context: int = 4) -> PackedCorpus:
    generator = np.random.default_rng(0)
    splits = {}
    for split, count in zip(SPLITS, (5, 2, 0), strict=True):
        shape = (count, context)
        splits[split] = Sequences(
            generator.integers(0, 2**31 - 1, shape).astype(np.int32),
            generator.integers(-(2**63), 2**63 - 1, shape).astype(np.int64),
            generator.integers(0, 2, shape).astype(np.int16),
        )
    return PackedCorpus(context, ("a part", "ein Teil"), splits, {"duplicates": 3}, TEXTS)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    written = corpus()
    PACKED.write(tmp_path / "it", written)
    read = PACKED.read(tmp_path / "it")
    assert read.digest == written.digest
    assert (read.context, read.groups) == (written.context, written.groups)
    assert dict(read.documents_excluded) == {"duplicates": 3}
    assert read.tokens_by_group("train") == written.tokens_by_group("train")
    assert [*read.texts] == [*read.texts] == TEXTS


@pytest.mark.parametrize("file", ["arrays.safetensors", "corpus.json"])
def test_a_changed_byte_and_a_missing_file_are_noticed(tmp_path: Path, file: str) -> None:
    PACKED.write(tmp_path / "it", corpus())
    path = tmp_path / "it" / file
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="digest"):
        PACKED.read(tmp_path / "it")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        PACKED.read(tmp_path / "it")


@pytest.mark.parametrize("damage", ["a letter", "a line", "half a line", "all"])
def test_changed_and_missing_texts_are_noticed(tmp_path: Path, damage: str) -> None:
    PACKED.write(tmp_path / "it", corpus())
    file = tmp_path / "it" / "documents.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    changed = {
        "a letter": [lines[0].replace("One", "Two"), *lines[1:]],
        "a line": lines[:-1],
        "half a line": [*lines[:-1], lines[-1][:4]],
    }
    texts = PACKED.read(tmp_path / "it").texts
    if damage == "all":
        file.unlink()
    else:
        file.write_text("".join(changed[damage]))
    with pytest.raises(CacheCorrupt, match=re.escape(str(file.parent))):
        _ = [*texts]


def test_arrays_of_another_corpus_are_noticed(tmp_path: Path) -> None:
    PACKED.write(tmp_path / "it", corpus())
    PACKED.write(tmp_path / "other", corpus(context=6))
    (tmp_path / "other" / "arrays.safetensors").replace(tmp_path / "it" / "arrays.safetensors")
    with pytest.raises(ValueError, match="digest"):
        PACKED.read(tmp_path / "it")
