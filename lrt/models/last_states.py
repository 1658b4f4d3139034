"""Hidden states of the last tokens of many texts, where a beginning that texts share runs once.

Contrastive prompts share most of their tokens: a question stands before either answer, and a system prompt
before every question. Their tokens form a tree of segments. A segment runs once, and the texts below it go on
from its keys and values.

A family that cannot go on from them (`lrt.models.capabilities.extends`) runs every text whole: slower, with
the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lrt.models.capabilities import extends
from lrt.models.decoder_cache import empty_cache, put_below
from lrt.models.hooks import capture, stop_after
from lrt.models.language_model import LanguageModel
from lrt.models.memory import row_bytes, run_in_batches
from lrt.models.padding import pad

SHORTEST = 4
"""Tokens of a beginning that runs by itself; a shorter one costs more in a further pass than it saves."""
PADDED = 1.25
"""Length of a batch's longest segment over its shortest, at most, in a batch of at least `FULL` tokens."""
FULL = 512
LEVELS = 6
"""Segments of a text at most: each level holds its keys and values while those below it run."""
WINDOWS = (
    *("sliding_window", "window_size", "attention_window_size", "keep_window_size", "attention_chunk_size"),
    *("original_max_position_embeddings", "max_position_embeddings"),
)
"""Settings of a config that name a length from which on a token's state depends on more than the tokens
before it and their positions: where a cache ends, or rotations change."""


@dataclass(frozen=True)
class Segment:
    """Tokens that follow those of the segments above.

    texts   Indices of the texts that end with it.
    longer  The segments that follow it.
    """

    tokens: tuple[int, ...]
    texts: tuple[int, ...]
    longer: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class _Above:
    """What ran before: its cache, and the mask of its columns `[rows, columns]`."""

    cache: Any
    mask: Tensor


@torch.no_grad()
def last_states(
    lm: LanguageModel, texts: Sequence[Sequence[int]], layers: Sequence[int], batch_tokens: int = 8192
) -> Tensor:  # [n, layers, d] float32, on the CPU
    """Hidden states of the last token of each text at some layers, in the order of the texts.

    texts         Token ids.
    batch_tokens  Of a batch, padding and shared beginnings included. A batch that memory does not hold is
                  halved.

    Raises InvalidValue for a layer that the model does not have, and ValueError for no layers, one that was
    not loaded, or a text without tokens.
    """
    layers = lm.readable_layers(layers)
    deepest = max(layers)
    states = torch.empty(len(texts), len(layers), lm.width)

    def run(batch: Sequence[tuple[Segment, int]], above: _Above | None) -> None:
        tokens, mask = pad([segment.tokens for segment, _ in batch])
        longer = [(next_, row) for row, (segment, _) in enumerate(batch) for next_ in segment.longer]
        cache = empty_cache(lm) if above is not None or longer else None
        if above is not None:
            rows = torch.tensor([row for _, row in batch])
            put_below(cache, above.cache, rows.to(lm.device), deepest)
            mask = torch.cat([above.mask[rows], mask], dim=1)
        with capture(lm, layers, slice(-1, None)) as captured, stop_after(lm, deepest):
            lm.run(tokens, mask if lm.hides_padding else None, cache, head=False)
        last = torch.stack([captured[layer][:, 0].float().cpu() for layer in layers], dim=1)
        for state, (segment, _) in zip(last, batch, strict=True):
            states[list(segment.texts)] = state
        if longer:
            captured.clear()
            visit(longer, _Above(cache, mask))

    def visit(segments: Sequence[tuple[Segment, int]], above: _Above | None) -> None:
        before = 0 if above is None else above.mask.shape[1]
        for batch in _batches(segments, before, batch_tokens, mixed=lm.hides_padding):
            size = row_bytes(lm, before + len(batch[-1][0].tokens), new=1, logits=0)

            def run_some(some: slice, _rows: int, batch: list[tuple[Segment, int]] = batch) -> None:
                run(batch[some], above)

            for _ in run_in_batches(lm, len(batch), size, run_some, max_rows=len(batch)):
                pass

    visit([(segment, 0) for segment in _plan(lm, texts, deepest)], None)
    return states


def tokens_run(lm: LanguageModel, texts: Sequence[Sequence[int]], layer: int) -> int:
    """Tokens that `last_states` runs through the model for these texts, up to a layer: a beginning that is
    shared counts once."""

    def count(tree: Sequence[Segment]) -> int:
        return sum(len(segment.tokens) + count(segment.longer) for segment in tree)

    return count(_plan(lm, texts, layer))


def _plan(lm: LanguageModel, texts: Sequence[Sequence[int]], deepest: int) -> list[Segment]:
    """The segments that the model runs, as many to a text as its family allows."""
    tree = segments(texts)
    if any(segment.longer for segment in tree):
        windows = [getattr(lm.text_config, name, None) for name in WINDOWS]
        shortest = min((size for size in windows if isinstance(size, int) and size > 0), default=None)
        # a window counts columns, and those of padding between segments too
        within = shortest is None or _columns(tree) < shortest
        if not (within and extends(lm, deepest)):
            return segments(texts, levels=1)
    return tree


def segments(texts: Sequence[Sequence[int]], levels: int = LEVELS) -> list[Segment]:
    """The tree of texts by their tokens, of so many levels; equal texts are one. Of one level: whole texts.

    Raises ValueError for a text without tokens.
    """
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, text in enumerate(texts):
        indices.setdefault(tuple(text), []).append(index)
    if () in indices:
        raise ValueError(f"text {indices[()][0]} has no tokens; it has no last token to read")
    return list(_tree([(tokens, tuple(indices[tokens])) for tokens in sorted(indices)], 0, 0, levels))


_Text = tuple[tuple[int, ...], tuple[int, ...]]  # tokens, and the indices of the texts


def _tree(texts: list[_Text], start: int, same: int, levels: int) -> Iterator[Segment]:
    """Segments, from token `start` on, of sorted texts that have the first `same` tokens in common and are
    longer than these."""
    for _, group in groupby(texts, key=lambda text: text[0][same]):
        together = list(group)
        (first, ends), (last, _) = together[0], together[-1]
        if levels == 1 or len(together) == 1:
            yield from (Segment(tokens[start:], indices) for tokens, indices in together)
            continue
        # of sorted texts the first and the last differ soonest
        stop = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        longer = together[1:] if len(first) == stop else together
        if stop - start >= SHORTEST:
            below = tuple(_tree(longer, stop, stop, levels - 1))
            yield Segment(first[start:stop], ends if len(first) == stop else (), below)
        else:
            if len(first) == stop:
                yield Segment(first[start:], ends)
            yield from _tree(longer, start, stop, levels)


def _columns(tree: Sequence[Segment]) -> int:
    """Columns of a batch at most: the longest segment of each level."""
    if not tree:
        return 0
    longest = max(len(segment.tokens) for segment in tree)
    return longest + _columns([below for segment in tree for below in segment.longer])


def _batches(
    segments: Sequence[tuple[Segment, int]], before: int, batch_tokens: int, mixed: bool
) -> Iterator[list[tuple[Segment, int]]]:
    """Segments by length, in batches of at most `batch_tokens` with `before` columns of what ran above.

    mixed  Whether a batch may hold several lengths.
    """
    batch: list[tuple[Segment, int]] = []
    for each in sorted(segments, key=lambda each: len(each[0].tokens)):
        length = len(each[0].tokens)
        if batch:
            shortest, rows = len(batch[0][0].tokens), len(batch) + 1
            fits = rows * (before + length) <= batch_tokens
            alike = length == shortest or (mixed and (length <= PADDED * shortest or rows * length <= FULL))
            if not (fits and alike):
                yield batch
                batch = []
        batch.append(each)
    if batch:
        yield batch
