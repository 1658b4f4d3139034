"""A packed corpus on disk: its arrays and its documents' texts, beside a card with the names of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lrt.corpora.documents import text_id
from lrt.corpora.sequences import Alignment, PackedCorpus, Sequences
from lrt.corpora.splits import SPLITS, Split
from lrt.storage.cache import Format, reading
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, load_tensors, read_sealed, save_tensors, write_sealed

ARRAYS, TEXTS, CARD = "arrays.safetensors", "documents.jsonl", "corpus.json"
COLUMNS = ("tokens", "documents", "groups")
ALIGNMENT = ("tokens", "bounds")  # of corpora that two models read in different tokens


@dataclass(frozen=True)
class TextsOnDisk:
    """Ids and texts of the documents of a packed corpus, read from its file whenever they are iterated.

    count   Documents that the file holds.

    Raises CacheCorrupt, while it is iterated, for a file with others or none.
    """

    file: Path
    count: int

    def __iter__(self) -> Iterator[tuple[int, str]]:
        read = 0
        with reading(self.file.parent), self.file.open(encoding="utf-8") as lines:
            for line in lines:
                id_, text = json.loads(line)
                if text_id(text) != id_:
                    raise Altered(f"{self.file}: a document is not the one that it was")
                read += 1
                yield id_, text
            if read != self.count:
                raise Altered(f"{self.file} holds {read} documents of {self.count}")


def _write(folder: Path, corpus: PackedCorpus) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{split}.{name}": torch.from_numpy(getattr(sequences, name))
        for split, sequences in corpus.splits.items()
        for name in COLUMNS
    } | {
        f"{split}.alignment.{name}": torch.from_numpy(getattr(sequences.alignment, name))
        for split, sequences in corpus.splits.items()
        if sequences.alignment is not None
        for name in ALIGNMENT
    }
    card = {
        "context": corpus.context,
        "groups": list(corpus.groups),
        "excluded": dict(corpus.documents_excluded),
        "arrays": save_tensors(folder / ARRAYS, arrays),
        "documents": _write_texts(folder / TEXTS, corpus),
        "digest": corpus.digest,
    }
    write_sealed(folder / CARD, {"corpus": card})


def _write_texts(file: Path, corpus: PackedCorpus) -> int:
    """Writes a document a line; how many there are."""
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with temporary.open("w", encoding="utf-8") as lines:
            for count, document in enumerate(corpus.texts, 1):  # noqa: B007
                lines.write(json.dumps(document) + "\n")

    write_durably(file, write)
    return count


def _read(folder: Path) -> PackedCorpus:
    card = read_sealed(folder / CARD)["corpus"]
    arrays = load_tensors(folder / ARRAYS, card["arrays"])

    def sequences(split: Split) -> Sequences:
        alignment = None
        if f"{split}.alignment.{ALIGNMENT[0]}" in arrays:
            alignment = Alignment(*(arrays[f"{split}.alignment.{name}"].numpy() for name in ALIGNMENT))
        tokens, documents, groups = (arrays[f"{split}.{name}"].numpy() for name in COLUMNS)
        return Sequences(tokens, documents, groups, alignment)

    splits = {split: sequences(split) for split in SPLITS}
    texts = TextsOnDisk(folder / TEXTS, card["documents"])
    corpus = PackedCorpus(card["context"], tuple(card["groups"]), splits, card["excluded"], texts)
    if corpus.digest != card["digest"]:
        raise Altered("its sequences do not match their digest")
    return corpus


PACKED: Format[PackedCorpus] = Format("", _write, _read, CARD)
"""A folder of 14 bytes a token (42 where the two models have different tokens), and the text."""
