"""A fitted map that transfers vectors with a forecast, and its folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Named
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from lrt.api.texts import checked_texts, each_text
from lrt.api.vector_forecast import VectorForecast, forecast
from lrt.corpora import text_id
from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat, Moments, merge_all, residual_on, ridge_at
from lrt.models import LanguageModel
from lrt.models.sides import SIDES
from lrt.steering import Mapping, SourcePart, SteeringVector, last_token_states
from lrt.steering.map_folder import save_fitted, sums_bytes
from lrt.storage.fingerprint import fingerprint, tensor_digest


@dataclass(frozen=True, repr=False)
class Transferred:
    """A steering vector of the target model, and what is known of it before it steers."""

    vector: SteeringVector
    forecast: VectorForecast

    def __repr__(self) -> str:
        return f"Transferred({self.vector!r}; {self.forecast})"


@dataclass(frozen=True, eq=False, repr=False)
class FittedMap:
    """A map from a layer of one model to a layer of another, and the sums behind its forecasts.

    A run's map may read several layers side by side, or write several. One of `fit_map` may read layers of
    several models.

    mapping       The affine map, between named layers of named models.
    ridge_weight  Its ridge weight, or that of the ridge map that its forecasts are of.
    folds         Moments of disjoint groups of training documents, on the CPU. Empty for a map that was saved
                  without them: it transfers without a forecast of noise.
    card          Where it comes from, as plain data: models, layers, corpus, rows, metrics.
    bias          Whether it was fitted with one.
    """

    mapping: Mapping
    ridge_weight: float
    folds: tuple[Moments, ...]
    card: Named[str, Any]
    bias: bool = True

    def __repr__(self) -> str:
        rows = f"{self.card['rows']['train']:,} rows"
        sums = f"sums of {self.sums_bytes / 1e6:.3g} MB" if self.folds else "no sums"
        source = " + ".join(f"{part.model} {_named(part.layers.layers)}" for part in self.mapping.sources)
        target = _named(self.mapping.target.layers)
        return (
            f"FittedMap({source} -> {self.mapping.target_model} {target}, "
            f"{rows}, FVU {self.fvu:.3g} on held-out documents, {sums})"
        )

    @property
    def source_layer(self) -> int:
        """The block that it reads. Raises InvalidValue where there are several (`mapping.sources`)."""
        if self.mapping.beside:
            raise InvalidValue(f"{self!r} reads several models: it has no single source layer")
        return _only(self.mapping.source.layers, "reads")

    @property
    def target_layer(self) -> int:
        """The block that it writes. Raises InvalidValue where there are several (`mapping.target.layers`)."""
        return _only(self.mapping.target.layers, "writes")

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
        vector: SteeringVector | Sequence[SteeringVector],
        *,
        target_layer: int | Literal["auto"] = "auto",
        residual_on_prompts: float | None = None,
    ) -> Transferred:
        """The vector on the target model, `W v`, with its forecast.

        vector        At the layer that the map reads; one for each, in order, where it reads several, and so
                      with several source models.
        target_layer  One that the map writes; `auto` where it writes only one. A `MapGrid` has a choice.
        residual_on_prompts  From `residual_on`, where both models are at hand; the forecast then warns by it.

        Raises InvalidValue for a vector of another model, layer or width, a zero one, and another target
        layer than the map's.
        """
        target = self.mapping.target
        layer = target.layers[0] if target_layer == "auto" and len(target.layers) == 1 else target_layer
        if layer not in target.layers or isinstance(layer, str | bool):
            raise InvalidValue(
                f"target_layer={target_layer!r}; this map writes {_named(target.layers)} of "
                f"{self.mapping.target_model}. Name one of these, or fit a map of that layer"
            )
        vectors = [vector] if isinstance(vector, SteeringVector) else [*vector]
        for each in vectors:
            _ = each.unit_direction
        transferred = self.mapping.transfer(vectors, layer)
        full_rank = min(self.mapping.affine.d_source, self.mapping.affine.d_target)
        stored = self.card["metrics"].get("rank", full_rank) < full_rank
        return Transferred(
            transferred,
            forecast(
                vectors[0],
                self.folds,
                self.ridge_weight,
                residual_on_prompts,
                transferred.direction if stored else None,
                direction=self.mapping.stacked(vectors),
                columns=target.columns(layer) if len(target.layers) > 1 else None,
                bias=self.bias,
            ),
        )

    def residual_on(
        self, source: LanguageModel | Sequence[LanguageModel], target: LanguageModel, prompts: Sequence[str]
    ) -> float:
        """Share of the variance among the prompts' last-token states that the map leaves unexplained.

        Give both sides of the vector's contrastive prompts together. Their means are taken off first: a
        vector is made of differences.

        source  The map's source model; of several, a list in the map's order.

        Raises InvalidValue for other models than the map's, and prompts whose target states do not vary.
        """
        prompts = checked_texts(prompts, "prompts")
        sources = [source] if isinstance(source, LanguageModel) else [*source]
        names = [part.model for part in self.mapping.sources]
        if len(sources) != len(names):
            raise InvalidValue(f"`source` holds {len(sources)} models; the map's are {', '.join(names)}")
        wanted = [*names, self.mapping.target_model]
        for side, lm, name in zip(
            ["source"] * len(names) + ["target"], [*sources, target], wanted, strict=True
        ):
            if lm.spec.name != name:
                raise InvalidValue(
                    f"`{side}` is {lm!r}; the map's {side} is {name}. Load that model, or one of that `name`"
                )
        states = [
            last_token_states(lm, prompts, part.layers.layers) / part.unit
            for lm, part in zip(sources, self.mapping.sources, strict=True)
        ]
        return residual_on(
            self.mapping.affine,
            torch.cat(states, dim=1),
            last_token_states(target, prompts, self.mapping.target.layers),
            centred=True,
        )

    def without(self, documents: Iterable[str]) -> FittedMap:
        """The ridge map of the groups of training documents that hold none of these, from the sums alone.

        For evaluation items that are in documents of the map's corpus: a whole group leaves for each, so
        nothing is left in by mistake, and no model runs. The ridge weight is the same share of the rows. FVU
        is then of the groups that left.

        documents  Whole texts, as they were given to `fit_map`. Which of them the corpus has is not known
                   here, so a group leaves for each that it might be in.

        Raises InvalidValue for no documents, a map without sums or whose sums are not of numbered groups, one
        that is not a ridge map, and where every group would leave.
        """
        texts = [*each_text(documents, "documents")]
        count = len(self.folds)
        if count == 0 or self.card.get("folds") != count:
            raise InvalidValue(
                f"{self!r} cannot exclude documents: that needs a ridge map, and the sums of each of its "
                "groups of documents. Fit it again without these texts (lrt.fit_map)"
            )
        groups = sorted({text_id(text) % count for text in texts})
        if not 0 < len(groups) < count:
            raise InvalidValue(
                f"these {len(texts)} documents are in {len(groups)} of the map's {count} document groups; "
                "some must leave and some stay. Fit the map again without these texts (lrt.fit_map), or with "
                "folds=50, whose groups are smaller"
            )
        out, left = (
            merge_all([fold for n, fold in enumerate(self.folds) if (n in groups) is leaves])
            for leaves in (True, False)
        )
        weight = self.ridge_weight * left.count / (left.count + out.count)
        affine = ridge_at(left, weight, bias=self.bias).to(torch.float32)
        card = {
            **self.card,
            "folds": None,  # the groups that are left have other numbers
            "without": {"groups": groups, "of": self.card["fingerprint"]},
            "rows": {**self.card["rows"], "train": left.count},
            "metrics": {"fvu": out.fvu_of(affine), "ridge_weight": weight},
        }
        card["fingerprint"] = fingerprint({**card, "weight": tensor_digest(affine.weight)})
        folds = tuple(fold for n, fold in enumerate(self.folds) if n not in groups)
        mapping = replace(self.mapping, affine=affine, fingerprint=card["fingerprint"])
        return FittedMap(mapping, weight, folds, card, self.bias)

    def save(self, folder: str | PathLike[str], *, sums: bool = True) -> None:
        """Write the map, its card, its sums and a model card (README.md), replacing a map that is there.

        sums  Whether forecasts will be needed; they take `sums_bytes`.

        Raises OSError where the folder cannot be written.
        """
        save_fitted(Path(folder), self.mapping.affine, self.folds if sums else (), self.card)


def _named(layers: tuple[int, ...]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def _only(layers: tuple[int, ...], does: str) -> int:
    if len(layers) > 1:
        raise InvalidValue(f"the map {does} {_named(layers)}, side by side: it has no single one")
    return layers[0]


def fitted_of(affine: AffineMap, folds: tuple[Moments, ...], card: Named[str, Any]) -> FittedMap:
    """The map of one pair of layers that a card describes.

    Raises KeyError, TypeError or ValueError for a card that lacks what a transfer needs.
    """
    layers, models = card["layers"], card["models"]
    source, target = (LayerConcat(tuple(layers[side]), models[side]["width"]) for side in SIDES)
    norms = dict(zip(target.layers, map(float, card["residual_norms"]), strict=True))
    mapping = Mapping(
        affine,
        source,
        target,
        models["source"]["name"],
        models["target"]["name"],
        norms,
        card["fingerprint"],
        tuple(
            SourcePart(each["name"], LayerConcat(tuple(each["layers"]), each["width"]), float(each["unit"]))
            for each in card.get("beside", ())
        ),
    )
    described: list[tuple[str, Any, Any]] = [(side, models[side], layers[side]) for side in SIDES]
    described += [("beside", each, each["layers"]) for each in card.get("beside", ())]
    for side, model, blocks in described:
        name, depth = model["name"], model["depth"]
        whole = all(type(each) is int for each in (depth, *blocks))
        if not isinstance(name, str) or not whole or not all(0 <= each < depth for each in blocks):
            raise ValueError(
                f"{side}: name, blocks, layers are {name!r:.80}, {depth!r:.80} and {blocks!r:.80}"
            )
    if not all(0 < part.unit < float("inf") for part in mapping.sources):
        raise ValueError(f"its units {[part.unit for part in mapping.beside]} are not above 0")
    if not all(0 < norm < float("inf") for norm in norms.values()):
        raise ValueError(f"its residual norms {norms} are not above 0")
    weight = float(card["metrics"]["ridge_weight"])
    if not 0 <= weight < float("inf"):
        raise ValueError(f"its ridge weight {weight} is not a number from 0 on")
    _ = float(card["metrics"]["fvu"]), int(card["rows"]["train"])  # which it prints
    return FittedMap(mapping, weight, folds, card, bias=bool(card.get("map", {"bias": True})["bias"]))
