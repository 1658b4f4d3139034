"""All directions that a study steers along: native, transferred, and the nulls.

A null is a direction that should have no effect. If it steers, the score or the layer is at fault, not the
transfer. All directions are of the target's width; strengths set their length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lrt.mapping import LayerConcat
from lrt.steering import Mapping, SourcePart, SteeringVector, difference_of_means, sampling_variance

Role = Literal["source", "target"]
Rows = tuple[Tensor, Tensor]
"""Indices or masks of positive and negative prompts."""
Directions = Callable[[Tensor], Tensor]
"""Transfers vectors `[k, d_source]` to `[k, d_target]`, as `AffineMap.directions` does."""

RESAMPLED = ("resampled", "resampled_native")
COMPARED = ("whole_corpus",)
HALVES = ("native_half", "transferred_half")
HALVINGS = 4  # of the contrastive prompts; one alone says little
UNTRAINED = "untrained_source"
NULLS = ("random", "bias", "shuffled", "other", UNTRAINED)


@dataclass(frozen=True, eq=False)
class ModelStates:
    """Last-token states of contrastive prompts in one model, its layers side by side.

    residual_norms  Median residual norm by layer.
    parts           Of several models whose states stand side by side in the only layer, each of them.
    """

    positive: Tensor  # [n, layers x d] float32
    negative: Tensor  # [m, layers x d] float32
    layers: LayerConcat
    model: str
    residual_norms: MappingOf[int, float]
    parts: tuple[SourcePart, ...] = ()

    def at(self, layers: Sequence[int]) -> ModelStates:
        """The same prompts at some of the layers."""
        columns = self.layers.columns_of(layers)
        return ModelStates(
            self.positive[:, columns],
            self.negative[:, columns],
            LayerConcat(tuple(layers), self.layers.width),
            self.model,
            self.residual_norms,
            self.parts,
        )

    def difference(self, rows: Rows | None = None) -> Tensor:  # [layers x d]
        """Difference of means over all prompts, or over some rows of each side."""
        positive, negative = self.positive, self.negative
        if rows is not None:
            positive, negative = positive[rows[0]], negative[rows[1]]
        return difference_of_means(positive, negative)

    def signal_to_noise(self, layer: int) -> float | None:
        """Length of the difference of means at a layer over its standard error over prompts; about 1 for
        prompts that differ by chance alone.

        Sides of one length are pairs, whose common part is no error. None where a side has one prompt.
        """
        positive, negative = (self.layers.part(s, layer).double() for s in (self.positive, self.negative))
        variance = sampling_variance(positive, negative)
        if variance is None:
            return None
        length = float((positive.mean(dim=0) - negative.mean(dim=0)).norm())
        return length / math.sqrt(variance) if variance > 0 else None


@dataclass(frozen=True, eq=False)
class ContrastStates:
    """Last-token states of one set of contrastive prompts in both models, at every layer of the map.

    prompts            Digest of the prompts (`lrt.steering.prompts_digest`).
    untrained_sources  The source architecture with random weights of several seeds, where that null is
                       evaluated.
    """

    contrast: str
    source: ModelStates
    target: ModelStates
    untrained_sources: tuple[ModelStates, ...] = ()
    prompts: str = ""

    def at(self, source: Sequence[int], target: Sequence[int]) -> ContrastStates:
        """The same prompts at some of the layers of each side."""
        untrained = tuple(each.at(source) for each in self.untrained_sources)
        return ContrastStates(
            self.contrast, self.source.at(source), self.target.at(target), untrained, self.prompts
        )

    @property
    def source_vector(self) -> Tensor:
        """`[d_source]`, the source's own vector, layers side by side."""
        return self.source.difference()

    @property
    def target_vector(self) -> Tensor:
        """`[d_target]`, the native vector, layers side by side."""
        return self.target.difference()

    def vectors(self, role: Role, rows: Rows | None = None) -> list[SteeringVector]:
        """One model's own vector at each of its layers, from all prompts or from some rows of each side; of
        several models side by side, those of each."""
        states: ModelStates = getattr(self, role)
        difference, layers, vectors = states.difference(rows), states.layers, []
        norms = tuple(states.residual_norms[layer] for layer in layers.layers)
        for part in states.parts or (SourcePart(states.model, layers, 1.0, norms),):
            own, difference = difference[: part.layers.total], difference[part.layers.total :]
            for layer, norm in zip(part.layers.layers, part.residual_norms, strict=True):
                vectors.append(
                    SteeringVector(
                        part.layers.part(own, layer) * part.unit,
                        layer,
                        part.model,
                        norm,
                        self.contrast,
                        prompts=self.prompts,
                    )
                )
        return vectors


@dataclass(frozen=True, eq=False)
class TransferMaps:
    """The map under test, and what its nulls and refits make of every contrast's vector.

    Of a null only its transferred vectors `W v` are needed, not its map. All are `[draws, d_target]` by
    contrast, of any length.

    shuffled          By maps of pairs whose target rows were permuted over the corpus.
    resampled         By maps of documents drawn with replacement and of parts at other weights, of vectors
                      from `prompts`.
    untrained_source  From untrained sources, each by a map on the same corpus.
    prompts           By contrast, the prompts that each draw of `resampled` is made of.
    """

    mapping: Mapping
    shuffled: MappingOf[str, Tensor] = field(default_factory=dict)
    resampled: MappingOf[str, Tensor] = field(default_factory=dict)
    untrained_source: MappingOf[str, Tensor] = field(default_factory=dict)
    prompts: MappingOf[str, Sequence[Rows]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        mapping: Mapping,
        states: MappingOf[str, ContrastStates],
        *,
        shuffled: Iterable[Directions] = (),
        resampled: Iterable[Directions] = (),
        untrained: Iterable[Directions] = (),
        parts: MappingOf[str, Tensor] | None = None,
        part_weights: float = 0.0,
        seed: int = 0,
    ) -> TransferMaps:
        """Transfers the vectors of all contrasts by each null and refit, one after the other.

        untrained     One for each of the contrasts' `untrained_sources`, in their order.
        parts         By contrast, `[parts, d_target]`: its vector as transferred by the map of all parts of
                      the corpus, less that by the map without each.
        part_weights  How much of `parts` enters each draw of `resampled`: a standard deviation. No further
                      map is solved.
        seed          Of what is drawn for `resampled`: prompts, and weights of parts.
        """
        contrasts = sorted(states)
        generators = {name: torch.Generator().manual_seed(seed) for name in contrasts}
        prompts: dict[str, list[Rows]] = {name: [] for name in contrasts}

        def source(_: int, name: str) -> Tensor:
            return states[name].source_vector

        def redrawn(_: int, name: str) -> Tensor:
            prompts[name].append(_drawn(states[name].source, generators[name]))
            return states[name].source.difference(prompts[name][-1])

        def untrained_source(draw: int, name: str) -> Tensor:
            return states[name].untrained_sources[draw].difference()

        def by(refits: Iterable[Directions], vector: Callable[[int, str], Tensor]) -> dict[str, Tensor]:
            drawn = [
                refit(torch.stack([vector(draw, name) for name in contrasts])).cpu()
                for draw, refit in enumerate(refits)
            ]
            return dict(zip(contrasts, torch.stack(drawn, 1), strict=True)) if drawn else {}

        refitted = by(resampled, redrawn)
        if parts:
            for name, images in refitted.items():
                change = parts[name].to(images)
                weights = torch.randn(len(images), len(change), generator=generators[name])
                refitted[name] = images + part_weights * weights.to(images) @ change
        return cls(mapping, by(shuffled, source), refitted, by(untrained, untrained_source), prompts)


def directions(
    contrast: str,
    states: MappingOf[str, ContrastStates],
    maps: TransferMaps,
    *,
    whole: Mapping | None = None,
    other: str | None = None,
    layer: int,
    random_draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """Unit directions `[draws, width]` at one target layer by condition, for one contrast of `states`.

    native, transferred  The target's own vector, and `W v`; `paper_literal` is `A v + p`.
    native_half, transferred_half  The same from halves of the prompts, `HALVINGS` times in two: draws 2i and
                         2i + 1 share no prompt.
    whole_corpus         `W v` by `whole`, the map of the whole corpus, where `maps` is of some parts alone.
    random, bias, shuffled, other, untrained_source  The nulls; `other` is the transferred vector of
                         another contrast, which the argument of that name names (`other_contrast`).
    resampled, resampled_native  `W v` with the map's documents and the contrastive prompts resampled,
                         and the native vector of the same prompts.

    Conditions that cannot be built are skipped. A zero vector gives a zero row, which does not steer.
    """
    mapping, own = maps.mapping, states[contrast]
    generator = torch.Generator().manual_seed(seed)
    sources = own.vectors("source")

    def native(rows: Rows | None = None) -> Tensor:
        return _unit(_at(own.vectors("target", rows), layer))

    def moved(by: Mapping, vectors: Sequence[SteeringVector]) -> Tensor:
        return _unit(by.transfer(vectors, layer))

    def part(stacked: Tensor) -> Tensor:
        return torch.nn.functional.normalize(mapping.target.part(stacked.float(), layer), dim=-1)

    halves = _halves(own.target, seed)
    rows: dict[str, list[Tensor]] = {
        "native": [native()],
        "native_half": [native(half) for half in halves],
        "transferred": [moved(mapping, sources)],
        "transferred_half": [moved(mapping, own.vectors("source", half)) for half in halves],
        "paper_literal": [_unit(mapping.transfer(sources, layer, paper_literal=True))],
        # a map without bias has no such direction
        "bias": [part(mapping.affine.bias)] if mapping.affine.bias.any() else [],
        "random": list(part(torch.randn(random_draws, mapping.target.total, generator=generator))),
        "whole_corpus": [] if whole is None else [moved(whole, sources)],
        "resampled_native": [native(drawn) for drawn in maps.prompts.get(contrast, ())],
        "other": [] if other is None else [moved(mapping, states[other].vectors("source"))],
    }
    for name in ("shuffled", "resampled", "untrained_source"):
        images: MappingOf[str, Tensor] = getattr(maps, name)
        rows[name] = list(part(images[contrast])) if contrast in images else []
    return {name: torch.stack(units) for name, units in rows.items() if units}


def other_contrast(contrast: str, among: Collection[str]) -> str | None:
    """The contrast whose transferred vector is the null `other`; None if there is only one.

    It is the next in alphabetical order, so that every contrast is used once.
    """
    names = sorted(among)
    return names[(names.index(contrast) + 1) % len(names)] if len(names) > 1 else None


def _at(vectors: Sequence[SteeringVector], layer: int) -> SteeringVector:
    return next(vector for vector in vectors if vector.layer == layer)


def _unit(vector: SteeringVector) -> Tensor:
    """`[d]` of length 1; zeros for a zero vector."""
    return vector.unit_direction if vector.norm > 0 else torch.zeros_like(vector.direction)


def _drawn(states: ModelStates, generator: torch.Generator) -> Rows:
    """Rows of each side, drawn with replacement in groups of `group_size`.

    Sides of one length are drawn alike. Their prompts are mostly the same texts but for the behaviour, so
    independent draws would add a difference between texts.
    """

    def draw(count: int) -> Tensor:
        size = group_size(count)
        first = torch.randint(count // size, (count // size,), generator=generator) * size
        return (first[:, None] + torch.arange(size)).flatten()

    positive = draw(len(states.positive))
    if len(states.negative) == len(states.positive):
        return positive, positive
    return positive, draw(len(states.negative))


def _halves(states: ModelStates, seed: int) -> list[Rows]:
    """Masks of both halves of the prompts, for each of `HALVINGS` random halvings, one after the other.

    Groups of `group_size` stay together: answers alternate in a balanced set, and halves should hold as many
    of each. Sides of one length are halved alike. A side of one prompt has no halves.
    """
    sides = len(states.positive), len(states.negative)
    if min(sides) < 2:
        return []
    generator = torch.Generator().manual_seed(seed)

    def halved(count: int) -> Tensor:
        size = group_size(count)
        order = torch.randperm(-(-count // size), generator=generator)
        return (order % 2 == 0).repeat_interleave(size)[:count]

    rows = []
    for _ in range(HALVINGS):
        positive = halved(sides[0])
        negative = positive if sides[0] == sides[1] else halved(sides[1])
        rows += [(positive, negative), (~positive, ~negative)]
    return rows


def group_size(prompts: int) -> int:
    """Neighbouring prompts that are drawn or split together: two, so that both answers are equally frequent;
    one for an odd number of prompts or fewer than four."""
    return 2 if prompts >= 4 and prompts % 2 == 0 else 1
