"""Speed of recording against the matrix products alone, and of reading a store against the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from clock import Row, row, seconds, turns
from models import LARGE, SMALL, block_products, random_model
from torch import Tensor

from lrt.activations import (
    ActivationDataModule,
    ActivationStore,
    RowFilter,
    Selection,
    plan_recording,
    record,
)
from lrt.activations.windows import in_float32
from lrt.corpora import SPLITS, Document, PackedCorpus, Sequences, pack
from lrt.lab.grammar import Plan, pages
from lrt.lab.shipped import folder_of
from lrt.mapping import Moments, ridge_path
from lrt.models import ModelSpec, load
from lrt.models.precision import bfloat16_is_fast

CONTEXT = 256


def corpus_of(train: int, vocabulary: int) -> PackedCorpus:
    """Random tokens: `train` training sequences, each one document."""
    rng = np.random.default_rng(0)
    splits = {}
    for number, (split, blocks) in enumerate(zip(SPLITS, (train, 1, 1), strict=True)):
        tokens = rng.integers(0, vocabulary, (blocks, CONTEXT)).astype(np.int32)
        owner = 10**6 * number + np.arange(blocks)[:, None] + np.zeros((1, CONTEXT), int)
        splits[split] = Sequences(tokens, owner.astype(np.int64), np.zeros_like(tokens, dtype=np.int16))
    return PackedCorpus(CONTEXT, ("all",), splits)


def recording_rows(runs: int = 2, blocks: int = 30) -> Iterator[Row]:
    """Recording several layers of both models of a pair into a store, against their products alone."""
    dtype = torch.bfloat16 if bfloat16_is_fast(torch.device("cpu"), SMALL[0]) else torch.float32
    # deeper than the recorded layers: later layers and the head must cost nothing
    source, target = (
        random_model(SMALL, 14, 32_000, dtype),
        random_model(LARGE, 10, 32_000, dtype),
    )
    source_layers, target_layers, batch = [7, 9], [4, 6], 4096
    corpus = corpus_of(blocks, 32_000)
    plan = plan_recording(source, target, source_layers, target_layers, corpus, batch_tokens=batch)
    tokens = plan.rows
    ours, limit = [], []
    for run in range(runs + 1):
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            took = seconds(lambda folder=folder: record(folder, source, target, plan, corpus))
        finally:
            shutil.rmtree(folder)
        products = seconds(
            lambda: (
                block_products(source, max(source_layers), tokens, CONTEXT * 16),
                block_products(target, max(target_layers), tokens, CONTEXT * 16),
            )
        )
        if run:  # the first warms up
            ours.append(took)
            limit.append(products * tokens / (tokens // (CONTEXT * 16) * CONTEXT * 16))
    yield row(
        "record/gemm_limit",
        "the matrix products of the blocks that are run, alone, over recording both models into a store on "
        f"disk: {tokens} tokens, blocks 0 to 9 of 14 x {SMALL[0]} and 0 to 6 of 10 x {LARGE[0]}, "
        f"{str(dtype).removeprefix('torch.')}",
        ours,
        limit,
        aim=0.9,
        tokens_per_second=round(tokens / sorted(ours)[len(ours) // 2], 1),
    )


def early_exit_row(runs: int = 5, blocks: int = 4) -> Row:
    """States at half depth: a forward pass that ends there, against a whole one with the head."""
    lm = random_model(SMALL, 12, 151_936, torch.float32)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 32_000, (blocks, CONTEXT), generator=generator)
    layer = 5

    def whole() -> Tensor:
        with torch.no_grad():
            states = lm.model(tokens, output_hidden_states=True).hidden_states
        return torch.as_tensor(states[layer + 1])

    def ours() -> Tensor:
        return lm.hidden_states(tokens, [layer])[layer]

    same = torch.equal(whole(), ours())
    took, theirs = turns(ours, whole, runs)
    return row(
        "record/early_exit",
        f"a whole forward with its head over one that ends at block {layer} of {lm.depth}: {SMALL[0]} wide, "
        f"151936 words, {tokens.numel()} tokens, float32; states {'the same' if same else 'NOT the same'} to "
        "the bit",
        took,
        theirs,
        identical=same,
    )


class _Random:
    """A stand-in for a language model with random states, for timing the store alone."""

    def __init__(self, width: int) -> None:
        self.width, self.depth, self.dtype = width, 1, torch.bfloat16
        self.device, self.spec = torch.device("cpu"), SimpleNamespace(name="random")

    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        return {layer: torch.randn(*tokens.shape, self.width).to(self.dtype) for layer in layers}


def store_of(folder: Path, rows: int, widths: tuple[int, int]) -> ActivationStore:
    """A store of random states."""
    corpus = corpus_of(rows // CONTEXT, 1000)
    source, target = map(_Random, widths)
    plan = plan_recording(source, target, [0], [0], corpus, rows_per_shard=32_768)  # type: ignore[arg-type]
    return record(folder, source, target, plan, corpus)  # type: ignore[arg-type]


def _forget(folder: Path) -> None:
    """Drop the files from the system's cache: the next read is cold."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def store_rows(runs: int = 5, rows: int = 131_072) -> Iterator[Row]:
    """Shuffled batches from a store, against reading its files sequentially."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        store = store_of(folder, rows, (SMALL[0], LARGE[0]))
        selection = Selection((0,), (0,), RowFilter(max_norm_ratio=None, first_position=False))
        data = ActivationDataModule(store.folder, selection, window_rows=32_768)
        data.setup()

        def sequential() -> None:
            for part in store.stream("train", ["source.0", "target.0"], 4096):
                for states in part.values():
                    states.float()

        def shuffled() -> None:
            for batch in data.train_dataloader():
                in_float32(batch)

        for name, cold in (("store/sequential", False), ("store/sequential_cold", True)):
            ours, theirs = [], []
            for run in range(runs + 1):
                took = []
                for work in (sequential, shuffled):
                    if cold:
                        _forget(folder)
                    took.append(seconds(work))
                if run:
                    theirs.append(took[0])
                    ours.append(took[1])
            yield row(
                name,
                "reading a store in order, as float32, over an epoch of shuffled float32 batches of it: "
                f"{rows} rows of {SMALL[0]} + {LARGE[0]} in bfloat16, {'cold' if cold else 'warm'}",
                ours,
                theirs,
                aim=0.6,
                megabytes_per_second=round(rows * (SMALL[0] + LARGE[0]) * 2 / 1e6 / sorted(ours)[runs // 2]),
            )
    finally:
        shutil.rmtree(folder)


def noise_row(tokens: int = 262_144, batch: int = 1024) -> Row:
    """Gradient noise of shuffled batches against batches of independent rows, at the best map.

    Measured on recorded states of the storybook lab. Batches of whole sequences stand beside it.
    """
    source, target = (load(ModelSpec(str(folder_of(name)))) for name in ("tiny", "small"))
    sizes = {"train": tokens, "validation": 4096, "test": 4096}
    documents = (Document(page.text) for page in pages(7, "held_out", Plan("story")))
    corpus = pack(documents, source.tokenizer, 128, sizes, end=(int(source.tokenizer.eos_token_id),), seed=0)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        plan = plan_recording(source, target, [2], [3], corpus)
        store = record(folder, source, target, plan, corpus)
        data = ActivationDataModule(store.folder, Selection((2,), (3,), RowFilter()), batch_rows=batch)
        data.setup()
        rows = [(b["source"], b["target"]) for b in data.iterate("train", 65_536)]
        x, y = (torch.cat(part) for part in zip(*rows, strict=True))
        mean_x, moments = x.mean(0), Moments(x.shape[1], y.shape[1])
        moments.update(x, y)
        best = ridge_path(moments, moments).map.to(torch.float32)

        def noise(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
            """Variance of the gradient at the best map."""
            gradients = [((a - mean_x).T @ (b - best.points(a)) / len(a)).flatten() for a, b in batches]
            return float(torch.stack(gradients).double().var(dim=0).sum())

        shuffled = noise((b["source"], b["target"]) for b in data.train_dataloader())
        count = len(x) // batch
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randint(len(x), (batch,), generator=generator) for _ in range(count)]
        alone = noise((x[i], y[i]) for i in drawn)
        # 127 neighbouring rows are a sequence without its first position
        order = torch.randperm(len(x) // 127, generator=generator)[: count * (batch // 127)]
        runs = [(order[i::count, None] * 127 + torch.arange(127)).flatten() for i in range(count)]
        whole = noise((x[i], y[i]) for i in runs) * len(runs[0]) / batch
    finally:
        shutil.rmtree(folder)
    ratio = alone / shuffled
    return Row(
        "store/gradient_noise",
        ratio,
        (ratio, ratio),
        "variance of the best map's gradient for rows drawn one by one over that for the stream's batches of "
        f"{batch}, {len(x)} rows of the storybook lab; batches of whole sequences give {alone / whole:.2f}",
        aim=round(1 / 1.2, 3),
        more={"noise_over_independent": round(shuffled / alone, 3), "of_sequences": round(whole / alone, 3)},
    )
