"""A packed corpus on disk: its arrays beside a card with the names of its parts."""

from __future__ import annotations

from pathlib import Path

import torch

from lrt.corpora.packing import PackedCorpus, Sequences
from lrt.corpora.splits import SPLITS
from lrt.storage.cache import Format
from lrt.storage.sealed import Altered, load_tensors, read_sealed, save_tensors, write_sealed

ARRAYS, CARD = "arrays.safetensors", "corpus.json"
COLUMNS = ("tokens", "documents", "groups")


def _write(folder: Path, corpus: PackedCorpus) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{split}.{name}": torch.from_numpy(getattr(sequences, name))
        for split, sequences in corpus.splits.items()
        for name in COLUMNS
    }
    card = {
        "context": corpus.context,
        "groups": list(corpus.groups),
        "excluded": dict(corpus.documents_excluded),
        "arrays": save_tensors(folder / ARRAYS, arrays),
        "digest": corpus.digest,
    }
    write_sealed(folder / CARD, {"corpus": card})


def _read(folder: Path) -> PackedCorpus:
    card = read_sealed(folder / CARD)["corpus"]
    arrays = load_tensors(folder / ARRAYS, card["arrays"])
    splits = {split: Sequences(*(arrays[f"{split}.{name}"].numpy() for name in COLUMNS)) for split in SPLITS}
    corpus = PackedCorpus(card["context"], tuple(card["groups"]), splits, card["excluded"])
    if corpus.digest != card["digest"]:
        raise Altered("its sequences do not match their digest")
    return corpus


PACKED: Format[PackedCorpus] = Format("", _write, _read, CARD)
"""A folder of 14 bytes a token."""
