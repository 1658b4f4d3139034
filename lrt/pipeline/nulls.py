"""The maps that a transferred vector is held against: other rows, solved as the map under test is."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from lrt.activations import pairs_with_other_source
from lrt.config import Evaluation
from lrt.evaluation import TransferMaps
from lrt.mapping import (
    AffineMap,
    ClosedFormSpec,
    DirectionalRidge,
    FitSpec,
    Moments,
    merge_all,
    ridge_along,
    ridge_at,
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

    def on(self, moments: Moments) -> AffineMap:
        """The map of other rows."""
        bias = self.data.settings.bias
        if self._each_direction:
            return ridge_along(moments, self.per_direction.basis, self.per_direction.weights, bias=bias)
        return ridge_at(moments, self.data.reference_ridge.weight, bias=bias)

    def on_untrained(self, moments: Moments) -> AffineMap:
        """The map from an untrained source, which has a scale of its own.

        Its ridge weight is the same share of its mean eigenvalue.
        """
        ours, theirs = (float(m.scatter_xx.trace()) for m in (self.data.train_moments, moments))
        bias = self.data.settings.bias
        if self._each_direction:
            weights = self.per_direction.weights * (theirs / ours)
            return ridge_along(moments, self.per_direction.basis, weights, bias=bias)
        weight = max(self.data.reference_ridge.weight / ours, 1e-9) * theirs
        return ridge_at(moments, weight, bias=bias)


def transfer_maps(
    mapping: Mapping, refit: Refit, settings: Evaluation, seed: int, untrained: UntrainedSource | None
) -> TransferMaps:
    """The map under test, and those of its nulls and of the second interval."""
    folds = refit.data.folds
    generator = torch.Generator().manual_seed(seed)
    resampled = []
    for _ in range(settings.resampled_draws):
        drawn = torch.randint(len(folds), (len(folds),), generator=generator).tolist()
        resampled.append(refit.on(merge_all([folds[i] for i in drawn])))
    shuffled = [refit.on(moments) for moments in refit.data.shuffled]
    null = None
    if untrained is not None:
        affine = refit.on_untrained(untrained_moments(refit.data, untrained))
        null = replace(mapping, affine=affine, source_model=untrained.name, fingerprint="")
    return TransferMaps(
        mapping, [*map(mapping.with_affine, shuffled)], [*map(mapping.with_affine, resampled)], null
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
