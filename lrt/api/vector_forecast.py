"""How well a map transfers one vector, known before any steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lrt.errors import UserError
from lrt.mapping import (
    Forecast,
    Moments,
    agreement,
    cosine,
    directions_of_halves,
    jackknife,
    merge_all,
    residual_warning,
    ridge_directions,
)
from lrt.steering import SteeringVector

# what lrt train warns by: analysis.signal_to_noise, analysis.residual_on_prompts. A vector does not say
# whether it will be scored on multiple-choice answers, for which less is enough (signal_to_noise_choice).
LEAST_SIGNAL_TO_NOISE = 5.0
LEAST_FOR_CHOICES = 2.0
MOST_RESIDUAL = 0.62
# a stored map of lower rank may drop a direction that hardly varies, which its FVU does not show
LEAST_FULL_MAP_COSINE = 0.95
_ENOUGH_FOR_CHOICES = f"for scores of multiple-choice answers {LEAST_FOR_CHOICES:g} is enough"
_MORE_TEXT = "Fit the map on more texts, and on texts like its contrastive prompts"


@dataclass(frozen=True)
class VectorForecast:
    """The forecast of a transferred vector `W v`; a figure is None where it cannot be computed.

    signal               Its length before scaling, in units of the target's states.
    standard_error       Root of its sampling variance, by a jackknife over the documents of the map's text.
    signal_to_noise      Their ratio.
    agreement_documents  Cosine of `W v` between the maps of two halves of the documents.
    residual_on_prompts  Share of the variance among the contrastive prompts that the map leaves unexplained,
                         where it was given.
    full_map_cosine      Cosine of the transferred vector with `W v` of the full map, where the map is
                         stored at a lower rank.
    candidates           Forecasts of every target layer of a grid, best first; empty where there was no
                         choice.
    warnings             Reasons to expect that the vector does not transfer; empty where there is none.
    """

    signal: float | None = None
    standard_error: float | None = None
    signal_to_noise: float | None = None
    agreement_documents: float | None = None
    residual_on_prompts: float | None = None
    full_map_cosine: float | None = None
    candidates: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        figures = {
            "signal to noise": self.signal_to_noise,
            "agreement of halves": self.agreement_documents,
            "residual on prompts": self.residual_on_prompts,
            "cosine with the full map": self.full_map_cosine,
        }
        known = [f"{name} {value:.3g}" for name, value in figures.items() if value is not None]
        count = len(self.warnings)
        return ", ".join([*known, f"{count or 'no'} warning{'s' * (count > 1)}"])

    def __repr__(self) -> str:
        return f"VectorForecast({self})"


@dataclass(frozen=True)
class Candidate:
    """A target layer that a vector could be transferred to: the FVU of its map, and the vector's forecast."""

    target_layer: int
    fvu: float
    forecast: VectorForecast

    def __repr__(self) -> str:
        return f"Candidate(layer {self.target_layer}: FVU {self.fvu:.3g}, {self.forecast})"


def forecast(
    vector: SteeringVector,
    folds: Sequence[Moments],
    weight: float,
    residual: float | None,
    stored: Tensor | None = None,
    *,
    direction: Tensor | None = None,
    columns: slice | None = None,
    bias: bool = True,
) -> VectorForecast:
    """The forecast of a source vector from the moments of folds of documents.

    weight    Ridge weight of the map of all folds.
    residual  Share of the variance among its prompts that the map leaves unexplained, where it is known.
    stored    The vector as a map of lower rank transfers it, `[d_target]`, where the map is one.
    direction  Vectors of several source layers side by side, `[d_source]`, where the map reads several.
    columns   Those of one target layer, where the map writes several.
    bias      Whether the map has one.
    """
    v = vector.direction if direction is None else direction
    name = vector.behaviour or f"of layer {vector.layer}"
    warnings = []
    noise: Forecast | None = None
    between: float | None = None
    with_full: float | None = None
    if len(folds) < 2:
        warnings.append("no forecast of noise: the map has no sums of at least two groups of documents")
    else:
        try:
            (noise,) = jackknife(folds, {name: v}, weight, bias=bias, columns=columns).values()
            halves = directions_of_halves(folds, weight, v[None], bias=bias)
            between = agreement([half[0, columns or slice(None)] for half in halves]).mean
            if stored is not None:
                full = ridge_directions(merge_all(folds), weight, v[None], bias=bias)[0]
                with_full = cosine(stored, full)
        except UserError as error:  # no reason not to transfer
            warnings.append(f"no forecast of noise: {error}")
    if noise is not None and (warning := noise.warning(LEAST_SIGNAL_TO_NOISE, _MORE_TEXT)):
        enough = noise.signal_to_noise >= LEAST_FOR_CHOICES
        warnings.append(warning + (f" ({_ENOUGH_FOR_CHOICES})" if enough else ""))
    if with_full is not None and with_full < LEAST_FULL_MAP_COSINE:
        warnings.append(
            f"the map was stored at a lower rank, which changes the transferred vector {name}: its cosine "
            f"with that of the full map is {with_full:.2f}, and should be at least "
            f"{LEAST_FULL_MAP_COSINE:g}. Fit the maps with a smaller `loss`"
        )
    if residual is not None and (warning := residual_warning(name, residual, MOST_RESIDUAL, _MORE_TEXT)):
        warnings.append(warning)
    return VectorForecast(
        noise.signal if noise else None,
        noise.standard_error if noise else None,
        noise.signal_to_noise if noise else None,
        between,
        residual,
        with_full,
        (),
        tuple(warnings),
    )
