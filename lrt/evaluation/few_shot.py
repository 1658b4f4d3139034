"""Vectors from a few contrastive pairs: native, transferred, and the blend of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrt.evaluation.directions import ContrastStates, ModelStates, Rows, group_size
from lrt.steering import Mapping, SteeringVector, blend, sampling_variance

ALL_NATIVE, ALL_TRANSFERRED = "native", "transferred"
"""The vectors from all pairs, on the target and on the source."""


@dataclass
class FewShot:
    """Vectors from `count` pairs, one a draw of the pairs.

    native       From the pairs on the target.
    transferred  From the same pairs on the source.
    blended      The native vector with the one that is transferred from the *other* pairs: as if somebody had
                 published a source vector. Empty where the other pairs are fewer than these.
    weights      Of the native vectors in the blends.
    pairs        Rows of the prompts of each draw.
    """

    count: int
    native: list[Tensor] = field(default_factory=list)
    transferred: list[Tensor] = field(default_factory=list)
    blended: list[Tensor] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    pairs: list[Rows] = field(default_factory=list)

    @property
    def by_kind(self) -> dict[str, list[Tensor]]:
        """The vectors by how they were made: native, transferred and, where there are any, blended."""
        kinds = {"native": self.native, "transferred": self.transferred, "blended": self.blended}
        return {kind: vectors for kind, vectors in kinds.items() if vectors}

    def directions(self) -> dict[str, list[Tensor]]:
        """By condition, as `ALL_NATIVE` and `ALL_TRANSFERRED` with the number of pairs."""
        return {condition(kind, self.count): vectors for kind, vectors in self.by_kind.items()}


def condition(kind: str, count: int) -> str:
    """The name of the condition of vectors from so many pairs."""
    return f"{kind} {count}"


def available_pairs(states: ModelStates) -> int:
    """Contrastive pairs that there are: prompts of the shorter side."""
    return min(len(states.positive), len(states.negative))


def few_shot_vectors(
    states: ContrastStates, mapping: Mapping, layer: int, counts: Sequence[int], draws: int, seed: int
) -> list[FewShot]:
    """Vectors `[d_target]` at a target layer from random pairs, for each count; none above those available.

    Pairs are drawn without replacement. Where all are drawn there is one draw. Neighbouring prompts are drawn
    together, as `group_size` says. Draws of one count do not depend on the other counts.
    """
    target = states.target
    sizes = len(target.positive), len(target.negative)
    groups, paired = (group_size(sizes[0]), group_size(sizes[1])), sizes[0] == sizes[1]

    def native(rows: Rows | None) -> Tensor:
        return target.layers.part(target.difference(rows), layer)

    def transferred(rows: Rows | None) -> Tensor:
        vectors: list[SteeringVector] = states.vectors("source", rows)
        return mapping.transfer(vectors, layer).direction

    by_count = []
    for count in counts:
        if count > available_pairs(target):
            continue
        generator = torch.Generator().manual_seed(seed)
        every = paired and count == sizes[0]
        few = FewShot(count)
        for _ in range(1 if every else draws):
            drawn, others = drawn_pairs(target, count, generator)
            few.pairs.append(drawn)
            few.native.append(native(drawn))
            few.transferred.append(transferred(drawn))
            positive, negative = (
                target.layers.part(side[rows], layer)
                for side, rows in zip((target.positive, target.negative), drawn, strict=True)
            )
            # as many of either side were drawn, which makes no pairs of prompts that are none
            variance = sampling_variance(positive, negative, groups, paired)
            if variance is not None and min(map(len, others)) >= count:
                blended = blend(native(drawn), transferred(others), variance)
                few.blended.append(blended.vector)
                few.weights.append(blended.weight)
        by_count.append(few)
    return by_count


def drawn_pairs(states: ModelStates, count: int, generator: torch.Generator) -> tuple[Rows, Rows]:
    """Rows of `count` prompts of each side, drawn without replacement, and the rows of the others.

    Sides of one length are pairs and drawn alike.

    Raises ValueError for more prompts than there are.
    """

    def draw(prompts: int) -> tuple[Tensor, Tensor]:
        if count > prompts:
            raise ValueError(f"count={count}: there are {prompts} prompts")
        size = group_size(prompts)
        groups = torch.randperm(prompts // size, generator=generator)
        order = (groups[:, None] * size + torch.arange(size)).flatten()
        return order[:count].sort().values, order[count:].sort().values

    positive = draw(len(states.positive))
    same = len(states.positive) == len(states.negative)
    negative = positive if same else draw(len(states.negative))
    return (positive[0], negative[0]), (positive[1], negative[1])
