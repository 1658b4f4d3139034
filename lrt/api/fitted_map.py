"""A fitted map that transfers vectors with a forecast, and its folder."""

from __future__ import annotations

from collections.abc import Mapping as Named
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from lrt.api.texts import checked_texts
from lrt.api.vector_forecast import VectorForecast, forecast
from lrt.errors import InvalidValue
from lrt.mapping import LayerConcat, MapCorrupt, MapForeign, Moments, residual_on, save_map
from lrt.mapping import load_map as load_affine
from lrt.models import LanguageModel
from lrt.models.sides import SIDES
from lrt.steering import Mapping, SteeringVector, last_token_states
from lrt.steering.model_card import PAGE_FILE, map_page
from lrt.storage.durable import write_durably
from lrt.storage.sealed import Altered, load_tensors, save_tensors

SUMS_FILE = "sums.safetensors"


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
        return sum(t.nbytes for fold in self.folds for t in fold.tensors().values())

    def transfer(self, vector: SteeringVector, *, residual_on_prompts: float | None = None) -> Transferred:
        """The vector on the target model, `W v`, with its forecast.

        residual_on_prompts  From `residual_on`, where both models are at hand; the forecast then warns by it.

        Raises InvalidValue for a vector of another model, layer or width, and a zero one.
        """
        _ = vector.unit_direction
        transferred = self.mapping.transfer(vector)
        return Transferred(transferred, forecast(vector, self.folds, self.ridge_weight, residual_on_prompts))

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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = None
        if sums and self.folds:
            written = {"file": SUMS_FILE, "folds": len(self.folds), "bytes": self.sums_bytes}
            written["digest"] = save_tensors(folder / SUMS_FILE, _numbered(self.folds))
        card = {**self.card, "sums": written}
        write_durably(folder / PAGE_FILE, map_page(card, folder.name).encode())
        save_map(folder, self.mapping.affine, card)
        if written is None:
            (folder / SUMS_FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> FittedMap:
        """The map that `save` wrote, checked against its checksums.

        Raises MapMissing, MapCorrupt or MapForeign (all `lrt.UserError`): there is no map, its files are
        damaged, or they are something else.
        """
        folder = Path(folder)
        affine, card = load_affine(folder)
        try:
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
            folds = _sums_in(folder, card["sums"])
            return cls(mapping, float(card["metrics"]["ridge_weight"]), folds, card)
        except (KeyError, TypeError, ValueError) as error:
            raise MapForeign(
                f"{folder} holds a map, but not one that `FittedMap.save` wrote: its card lacks what a "
                f"transfer needs ({type(error).__name__}: {error}). Fit it with lrt.fit_map and save that"
            ) from error


def _numbered(folds: Sequence[Moments]) -> dict[str, Tensor]:
    return {f"{n}.{name}": t for n, fold in enumerate(folds) for name, t in fold.tensors().items()}


def _sums_in(folder: Path, written: Named[str, Any] | None) -> tuple[Moments, ...]:
    if written is None:
        return ()
    path = folder / SUMS_FILE
    try:
        tensors = load_tensors(path, written["digest"])
    except (OSError, Altered, SafetensorError) as error:
        raise MapCorrupt(
            f"{path} cannot be used: {error}. Copy the folder again, or fit the map again"
        ) from error
    return tuple(
        Moments.from_tensors({name: tensors[f"{number}.{name}"] for name in Moments(1, 1).tensors()})
        for number in range(written["folds"])
    )
