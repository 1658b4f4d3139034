"""Two duck-typed language models whose states are known, and a corpus for them to read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrt.activations import ActivationStore, plan_recording, record
from lrt.corpora import SPLITS, PackedCorpus, Sequences
from lrt.storage.locks import LOCK

VOCABULARY = 50
MASSIVE_TOKEN = 49


@dataclass
class PlantedModel:
    """State of block l at a token: a table's row for the token, plus its position / 100, plus l.

    Position 0 and `MASSIVE_TOKEN` are a hundred times as long. `calls` counts forward passes.
    """

    width: int
    seed: int = 0
    depth: int = 4
    dtype: torch.dtype = torch.float32
    name: str = "planted"
    calls: int = 0
    hardware: str = "planted"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.table = torch.randn(VOCABULARY, self.width, generator=generator)
        self.spec = SimpleNamespace(name=self.name)

    def state(self, tokens: Tensor, positions: Tensor, layer: int) -> Tensor:
        plain = self.table[tokens.long()] + positions[..., None] / 100 + layer
        massive = (positions == 0) | (tokens == MASSIVE_TOKEN)
        return torch.where(massive[..., None], 100 * plain, plain).to(self.dtype)

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        assert tokens.dtype == torch.int64
        self.calls += 1
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return {layer: self.state(tokens, positions, layer) for layer in layers}


def corpus_of(
    train: int = 40,
    validation: int = 6,
    test: int = 5,
    context: int = 8,
    seed: int = 0,
    document_tokens: int | None = None,
) -> PackedCorpus:
    """Random tokens; documents of two sequences (or `document_tokens`) each, of two groups in turn."""
    rng = np.random.default_rng(seed)
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    splits = {}
    for number, (split, count) in enumerate(counts.items()):
        tokens = rng.integers(0, VOCABULARY, (count, context)).astype(np.int32)
        of = np.arange(count * context).reshape(count, context) // (document_tokens or 2 * context)
        owner = 1000 * number + of
        splits[split] = Sequences(tokens, owner.astype(np.int64), (owner % 2).astype(np.int16))
    return PackedCorpus(context, ("even", "odd"), splits)


def recording_of(corpus: PackedCorpus | None = None, **settings: Any) -> dict[str, Any]:
    """Two planted models, 6 and 10 wide, a plan of their layers (1, 2) and (3,), and a corpus, as `record`
    takes them."""
    chosen: dict[str, Any] = {"rows_per_shard": 64, "batch_tokens": 24, **settings}
    source, target = chosen.pop("source", PlantedModel(6)), chosen.pop("target", PlantedModel(10, seed=1))
    layers = chosen.pop("source_layers", [2, 1]), chosen.pop("target_layers", [3])
    corpus = corpus or corpus_of()
    plan = plan_recording(source, target, *layers, corpus, **chosen)
    return {"source": source, "target": target, "plan": plan, "corpus": corpus}


def make_store(
    folder: Path, corpus: PackedCorpus | None = None, progress: Any = None, **settings: Any
) -> ActivationStore:
    """A store of `recording_of`."""
    return record(folder, **recording_of(corpus, **settings), progress=progress)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, its lock apart; it holds no other folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != LOCK}
