"""Every direction that is put to the test beside the transferred vector, the nulls above all.

A null is a direction that ought to do nothing: if it steers, the measure or the layer is at fault,
not the transfer. All directions are of the target's width; their length is set by the strength.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping import AffineMap, LayerConcat
from lrt.steering import difference_of_means

RESAMPLED = ("resampled", "resampled_native")
BESIDE = ("whole_corpus",)
NULLS = ("random", "bias", "shuffled", "other", "untrained_source")


@dataclass(frozen=True)
class ContrastStates:
    """Last-token states of one contrastive set in both models, at every layer of the map.

    Each is float32 `[n, d]`, layers side by side; `untrained_source` holds those of the untrained
    source, where there is one.
    """

    source: tuple[Tensor, Tensor]  # positive, negative  [n, d_source]
    target: tuple[Tensor, Tensor]  # [n, d_target]
    untrained_source: tuple[Tensor, Tensor] | None = None

    def at(self, source: Tensor, target: Tensor) -> ContrastStates:
        """The same texts with some columns `[k]` of each side: some of the layers."""
        pairs = (
            None if pair is None else (pair[0][:, columns], pair[1][:, columns])
            for pair, columns in (
                (self.source, source),
                (self.target, target),
                (self.untrained_source, source),
            )
        )
        return ContrastStates(*pairs)  # type: ignore[arg-type]

    @property
    def source_vector(self) -> Tensor:
        """`[d_source]`, the source's own steering vector."""
        return difference_of_means(*self.source)

    @property
    def target_vector(self) -> Tensor:
        """`[d_target]`, the native vector."""
        return difference_of_means(*self.target)


@dataclass(frozen=True)
class TransferMaps:
    """The map under test and those of the nulls and intervals.

    shuffled       Fitted on pairs whose target rows were permuted over the corpus.
    resampled      Refitted on the documents drawn with replacement.
    untrained_source  From an untrained source with the same corpus.
    """

    affine: AffineMap
    shuffled: Sequence[AffineMap] = ()
    resampled: Sequence[AffineMap] = ()
    untrained_source: AffineMap | None = None


def directions(
    contrast: str,
    states: Mapping[str, ContrastStates],
    maps: TransferMaps,
    *,
    whole: AffineMap | None = None,
    stack: LayerConcat,
    layer: int,
    random_draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """Unit directions `[draws, width]` at one target layer by condition, for one contrast of `states`.

    stack  The target layers that the map's images are made of; `layer` is the one to steer at.

    native, native_half  The target's own vector; from each disjoint half of the prompts (the
                         ceiling of any agreement).
    transferred          `W v`; `paper_literal` `A v + p`.
    whole_corpus         `W v` by `whole`, the map of the whole corpus, where `maps` is of some parts alone.
    random, bias, shuffled, other, untrained_source  The nulls; `other` is another contrast's
                         transferred vector. What there is nothing to make of is left out.
    resampled, resampled_native  `W v` with the map's documents and the contrastive prompts drawn anew,
                         and the native vector of the same prompts.
    """
    mine = states[contrast]
    generator = torch.Generator().manual_seed(seed)
    v = mine.source_vector
    image = maps.affine.directions(v)
    found: dict[str, list[Tensor]] = {
        "native": [mine.target_vector],
        "native_half": [difference_of_means(*(_half(side, half) for side in mine.target)) for half in (0, 1)],
        "transferred": [image],
        "paper_literal": [image + maps.affine.bias],
        # a map without bias has no such direction
        "bias": [maps.affine.bias] if maps.affine.bias.any() else [],
        "random": list(torch.randn(random_draws, len(image), generator=generator)),
        "shuffled": [m.directions(v) for m in maps.shuffled],
    }
    if whole is not None:
        found["whole_corpus"] = [whole.directions(v)]
    for refitted in maps.resampled:
        drawn = _drawn(mine, generator)
        for name, pair, carry in (
            ("resampled", mine.source, refitted.directions),
            ("resampled_native", mine.target, torch.clone),
        ):
            found.setdefault(name, []).append(carry(_difference_of(pair, drawn)))
    if (following := other_contrast(contrast, states)) is not None:
        other = states[following].source_vector
        found["other"] = [maps.affine.directions(other)]
    if maps.untrained_source is not None and mine.untrained_source is not None:
        untrained = difference_of_means(*mine.untrained_source)
        found["untrained_source"] = [maps.untrained_source.directions(untrained)]
    return {
        name: torch.nn.functional.normalize(stack.part(torch.stack(rows).float(), layer), dim=1)
        for name, rows in found.items()
        if rows
    }


def other_contrast(contrast: str, among: Collection[str]) -> str | None:
    """The one whose transferred vector is the null `other`: the next in order, a fixed choice that every
    contrast is put to once. None where there is no other."""
    names = sorted(among)
    return names[(names.index(contrast) + 1) % len(names)] if len(names) > 1 else None


def _drawn(states: ContrastStates, generator: torch.Generator) -> list[Tensor]:
    """Rows of either side, drawn with replacement, by `_together` as halves are made. Sides of one length are
    drawn alike: those of most contrasts are the same texts or questions but for the behaviour, and drawn
    apart their difference would be one of texts."""

    def rows(count: int) -> Tensor:
        each = _together(count)
        first = torch.randint(count // each, (count // each,), generator=generator) * each
        return (first[:, None] + torch.arange(each)).flatten()

    one, other = (len(side) for side in states.source)
    drawn = rows(one)
    return [drawn, drawn if other == one else rows(other)]


def _half(side: Tensor, half: int) -> Tensor:
    """Every second two of the prompts: answers alternate in a balanced set, and a half made of one answer's
    questions alone would be a vector of that answer."""
    return side[torch.arange(len(side)) // _together(len(side)) % 2 == half]


def _together(prompts: int) -> int:
    """How many neighbours a set of prompts is divided by: two, so that a half or a draw has as many of either
    answer, one where there are too few or not an even number."""
    return 2 if prompts >= 4 and prompts % 2 == 0 else 1


def _difference_of(pair: tuple[Tensor, Tensor], drawn: Sequence[Tensor]) -> Tensor:
    return difference_of_means(*(side[rows] for side, rows in zip(pair, drawn, strict=True)))
