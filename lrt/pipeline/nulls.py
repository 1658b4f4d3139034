"""The maps that a transferred vector is held against: other rows, solved as the map under test is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingOf
from functools import cached_property, partial

import torch
from torch import Tensor

from lrt.activations import pairs_with_other_source
from lrt.config import Evaluation
from lrt.corpora import Split
from lrt.evaluation import ContrastStates, TransferMaps
from lrt.evaluation.directions import Directions
from lrt.mapping import (
    ClosedFormSpec,
    DirectionalRidge,
    FitSpec,
    Moments,
    directions_along,
    merge_all,
    ridge_directions,
    ridge_path,
    ridge_per_direction,
)
from lrt.pipeline.fit_data import FitData
from lrt.pipeline.pair import UntrainedSource
from lrt.pipeline.states import RecordedStates
from lrt.steering import Mapping


class Refit:
    """Solves other rows with the ridge weights of the map under test; in closed form where it was trained."""

    def __init__(self, data: FitData, fit: FitSpec | ClosedFormSpec) -> None:
        self.data = data
        self._each_direction = isinstance(fit, ClosedFormSpec) and fit.solver == "ridge_per_direction"

    @cached_property
    def per_direction(self) -> DirectionalRidge:
        """Ridge with a weight for each direction of the target."""
        data = self.data
        with data.monitor.working("a ridge weight for each direction"):
            return ridge_per_direction(
                data.train_moments,
                data.moments["validation"],
                data.reference_ridge.weight,
                bias=data.settings.bias,
            )

    def on(self, moments: Moments) -> Directions:
        """How the map of other rows transfers vectors; the map itself is never made."""
        bias = self.data.settings.bias
        if self._each_direction:
            fitted = self.per_direction
            return partial(directions_along, moments, fitted.basis, fitted.weights, bias=bias)
        return partial(ridge_directions, moments, self.data.reference_ridge.weight, bias=bias)

    def resampled(self, draws: int, seed: int) -> Iterator[Directions]:
        """How maps of documents that are drawn with replacement, by folds, transfer vectors."""
        folds, generator = self.data.folds, torch.Generator().manual_seed(seed)
        for _ in range(draws):
            drawn = torch.randint(len(folds), (len(folds),), generator=generator)
            yield self.on(merge_all(folds, drawn.bincount(minlength=len(folds)).tolist()))

    def own_ridge(self, untrained: UntrainedSource) -> dict[str, float]:
        """Ridge weight a row of an untrained source, chosen on its validation rows as the map's is on its
        own, and the FVU there (`fvu_validation`). Cached.

        Of the rows of every document, excluded ones too: once a pair, and not once a behaviour.
        """
        bias = self.data.settings.bias

        def make() -> dict[str, float]:
            train, validation = (
                untrained_moments(self.data, untrained, split, every_document=True)
                for split in ("train", "validation")
            )
            fit = ridge_path(train, validation, bias=bias)
            return {"weight_a_row": fit.weight / train.count, "fvu_validation": fit.fvu_validation}

        return self.data.figures_of_all({"source": untrained.identity, "bias": bias, "ridge": "own"}, make)

    def on_untrained(self, untrained: UntrainedSource) -> Directions:
        """How the map from an untrained source transfers vectors, each weight chosen as the map's."""
        bias = self.data.settings.bias
        train = untrained_moments(self.data, untrained)
        weight = self.own_ridge(untrained)["weight_a_row"] * train.count
        if not self._each_direction:
            return partial(ridge_directions, train, weight, bias=bias)
        validation = untrained_moments(self.data, untrained, "validation")
        fitted = ridge_per_direction(train, validation, weight, bias=bias)
        return partial(directions_along, train, fitted.basis, fitted.weights, bias=bias)

    def without_parts(self, vectors: Tensor) -> dict[str, Tensor]:
        """Transferred vectors `[k, d_target]` of vectors `[k, d_source]` by the ridge map without a part of
        the corpus, by the part; at the same ridge weight a row. Empty where the corpus has no two parts."""
        whole, bias = self.data.train_moments, self.data.settings.bias
        images = {}
        for part, moments in self.data.by_part():
            if moments.count < whole.count:
                rest = whole.without(moments)
                weight = self.data.reference_ridge.weight * rest.count / whole.count
                images[part] = ridge_directions(rest, weight, vectors, bias=bias)
        return images

    def on_untrained_without(self, untrained: UntrainedSource, part: FitData) -> Directions:
        """The same for the ridge map of the rows without those of a part, at the same weight a row."""
        train = untrained_moments(self.data, untrained)
        rest = train.without(untrained_moments(part, untrained))
        weight = self.own_ridge(untrained)["weight_a_row"] * rest.count
        return partial(ridge_directions, rest, weight, bias=self.data.settings.bias)


def transfer_maps(
    mapping: Mapping,
    states: MappingOf[str, ContrastStates],
    refit: Refit,
    settings: Evaluation,
    seed: int,
    untrained: Sequence[UntrainedSource],
    parts: MappingOf[str, Tensor],
) -> TransferMaps:
    """The map under test, and the vectors of all contrasts as its nulls and refits transfer them.

    One refit at a time: each is a large matrix and its factor.

    parts  By contrast, how much each part of the corpus changes its transferred vector.
    """
    return TransferMaps.of(
        mapping,
        states,
        shuffled=map(refit.on, refit.data.shuffled),
        resampled=refit.resampled(settings.resampled_draws, seed),
        untrained=map(refit.on_untrained, untrained),
        parts=parts,
        part_weights=settings.part_weights,
        seed=seed,
    )


def untrained_moments(
    data: FitData, untrained: UntrainedSource, split: Split = "train", *, every_document: bool = False
) -> Moments:
    """Moments of the same rows with the untrained source in the source's place. Needs recorded states.

    Cached by source and rows: a pass of its lower blocks over the corpus, once.

    every_document  Excluded documents too.
    """
    states = data.states
    assert isinstance(states, RecordedStates), "checked before anything costly"
    return data.gathered(
        split,
        {"source": untrained.identity},
        lambda rows: pairs_with_other_source(states.store, split, untrained.model, rows),
        f"the {untrained.name}, {split}",
        every_document=every_document,
    )
