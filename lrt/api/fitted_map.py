"""A fitted map that transfers vectors with a forecast, and its folder."""

from __future__ import annotations

from collections.abc import Mapping as Named
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from lrt.api.texts import checked_texts
from lrt.api.vector_forecast import VectorForecast, forecast
from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat, Moments, residual_on
from lrt.models import LanguageModel
from lrt.models.sides import SIDES
from lrt.steering import Mapping, SteeringVector, last_token_states
from lrt.steering.map_folder import save_fitted, sums_bytes


@dataclass(frozen=True, repr=False)
class Transferred:
    """A steering vector of the target model, and what is known of it before it steers."""

    vector: SteeringVector
    forecast: VectorForecast

    def __repr__(self) -> str:
        return f"Transferred({self.vector!r}; {self.forecast})"


@dataclass(frozen=True, eq=False, repr=False)
class FittedMap:
    """A ridge map from one layer of a model to one layer of another, and the sums behind its forecasts.

    mapping       The affine map, between named layers of named models.
    ridge_weight  Its ridge weight.
    folds         Moments of disjoint groups of training documents, on the CPU. Empty for a map that was saved
                  without them: it transfers without a forecast of noise.
    card          Where it comes from, as plain data: models, layers, corpus, rows, metrics.
    """

    mapping: Mapping
    ridge_weight: float
    folds: tuple[Moments, ...]
    card: Named[str, Any]

    def __repr__(self) -> str:
        rows = f"{self.card['rows']['train']:,} rows"
        sums = f"sums of {self.sums_bytes / 1e6:.3g} MB" if self.folds else "no sums"
        return (
            f"FittedMap({self.mapping.source_model} layer {self.source_layer} -> "
            f"{self.mapping.target_model} layer {self.target_layer}, {rows}, FVU {self.fvu:.3g} on held-out "
            f"documents, {sums})"
        )

    @property
    def source_layer(self) -> int:
        """The block that it reads."""
        return self.mapping.source.layers[0]

    @property
    def target_layer(self) -> int:
        """The block that it writes."""
        return self.mapping.target.layers[0]

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained on documents that neither fitted it nor chose its ridge weight.

        0 is a perfect map, 1 the mean.
        """
        return float(self.card["metrics"]["fvu"])

    @property
    def sums_bytes(self) -> int:
        """Bytes of the sums, in memory and in the folder: 8 (d_s^2 + d_s d_t + d_t^2) a fold and a little."""
        return sums_bytes(self.folds)

    def transfer(
        self,
        vector: SteeringVector,
        *,
        target_layer: int | Literal["auto"] = "auto",
        residual_on_prompts: float | None = None,
    ) -> Transferred:
        """The vector on the target model, `W v`, with its forecast.

        target_layer  The map's own, or `auto`; `MapGrid.transfer` has a choice.
        residual_on_prompts  From `residual_on`, where both models are at hand; the forecast then warns by it.

        Raises InvalidValue for a vector of another model, layer or width, a zero one, and another target
        layer than the map's.
        """
        if target_layer not in ("auto", self.target_layer):
            raise InvalidValue(
                f"target_layer={target_layer!r}; this map writes layer {self.target_layer} of "
                f"{self.mapping.target_model} alone. Leave it out, or fit a map of that layer"
            )
        _ = vector.unit_direction
        transferred = self.mapping.transfer(vector)
        full_rank = min(self.mapping.source.total, self.mapping.target.total)
        stored = self.card["metrics"].get("rank", full_rank) < full_rank
        return Transferred(
            transferred,
            forecast(
                vector,
                self.folds,
                self.ridge_weight,
                residual_on_prompts,
                transferred.direction if stored else None,
            ),
        )

    def residual_on(self, source: LanguageModel, target: LanguageModel, prompts: Sequence[str]) -> float:
        """Share of the variance among the prompts' last-token states that the map leaves unexplained.

        Give both sides of the vector's contrastive prompts together. Their means are taken off first: a
        vector is made of differences.

        Raises InvalidValue for other models than the map's, and prompts whose target states do not vary.
        """
        prompts = checked_texts(prompts, "prompts")
        named = {"source": self.mapping.source_model, "target": self.mapping.target_model}
        for side, lm in zip(SIDES, (source, target), strict=True):
            if lm.spec.name != named[side]:
                raise InvalidValue(
                    f"`{side}` is {lm!r}; the map's {side} is {named[side]}. Load that model, or one of that "
                    "`name`"
                )
        return residual_on(
            self.mapping.affine,
            last_token_states(source, prompts, self.source_layer),
            last_token_states(target, prompts, self.target_layer),
            centred=True,
        )

    def save(self, folder: str | PathLike[str], *, sums: bool = True) -> None:
        """Write the map, its card, its sums and a model card (README.md), replacing a map that is there.

        sums  Whether forecasts will be needed; they take `sums_bytes`.

        Raises OSError where the folder cannot be written.
        """
        save_fitted(Path(folder), self.mapping.affine, self.folds if sums else (), self.card)


def fitted_of(affine: AffineMap, folds: tuple[Moments, ...], card: Named[str, Any]) -> FittedMap:
    """The map of one pair of layers that a card describes.

    Raises KeyError, TypeError or ValueError for a card that lacks what a transfer needs.
    """
    layers, models = card["layers"], card["models"]
    source, target = (LayerConcat(tuple(layers[side]), models[side]["width"]) for side in SIDES)
    (norm,) = card["residual_norms"]
    mapping = Mapping(
        affine,
        source,
        target,
        models["source"]["name"],
        models["target"]["name"],
        {target.layers[0]: float(norm)},
        card["fingerprint"],
    )
    return FittedMap(mapping, float(card["metrics"]["ridge_weight"]), folds, card)
