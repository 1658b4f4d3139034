"""The maps that a transferred vector is held against: other rows, solved as the map under test is."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as MappingOf
from functools import cached_property, partial

import torch

from lrt.activations import pairs_with_other_source
from lrt.config import Evaluation
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

    def on_untrained(self, moments: Moments) -> Directions:
        """The same for an untrained source, which has a scale of its own.

        Its ridge weight is the same share of its mean eigenvalue.
        """
        ours, theirs = (float(m.scatter_xx.trace()) for m in (self.data.train_moments, moments))
        bias = self.data.settings.bias
        if self._each_direction:
            weights = self.per_direction.weights * (theirs / ours)
            return partial(directions_along, moments, self.per_direction.basis, weights, bias=bias)
        weight = max(self.data.reference_ridge.weight / ours, 1e-9) * theirs
        return partial(ridge_directions, moments, weight, bias=bias)


def transfer_maps(
    mapping: Mapping,
    states: MappingOf[str, ContrastStates],
    refit: Refit,
    settings: Evaluation,
    seed: int,
    untrained: UntrainedSource | None,
) -> TransferMaps:
    """The map under test, and the vectors of all contrasts as its nulls and refits transfer them.

    One refit at a time: each is a large matrix and its factor.
    """
    folds = refit.data.folds
    generator = torch.Generator().manual_seed(seed)

    def resampled() -> Iterator[Directions]:
        for _ in range(settings.resampled_draws):
            drawn = torch.randint(len(folds), (len(folds),), generator=generator)
            times = drawn.bincount(minlength=len(folds)).tolist()
            yield refit.on(merge_all(folds, times))

    return TransferMaps.of(
        mapping,
        states,
        shuffled=map(refit.on, refit.data.shuffled),
        resampled=resampled(),
        untrained=[] if untrained is None else [refit.on_untrained(untrained_moments(refit.data, untrained))],
        seed=seed,
    )


def untrained_moments(data: FitData, untrained: UntrainedSource) -> Moments:
    """Moments of the same rows with the untrained source in the source's place. Needs recorded states."""
    states = data.states
    assert isinstance(states, RecordedStates), "checked before anything costly"
    return data.gathered(
        {"source": untrained.identity},
        lambda rows: pairs_with_other_source(states.store, "train", untrained.model, rows),
        "the untrained source",
    )
