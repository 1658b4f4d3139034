"""The forecast of a transferred vector, before any steering, and when it warns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from lrt.activations import NoRows
from lrt.config import Analysis as Settings
from lrt.errors import UserError
from lrt.evaluation import Behaviour
from lrt.mapping import (
    Forecast,
    Moments,
    agreement,
    cosine,
    directions_of_halves,
    jackknife,
    layer_concat_bytes,
    residual_on,
    residual_warning,
    ridge_directions,
)
from lrt.pipeline.analyses.analysis import TO_BE_FIXED
from lrt.pipeline.fit_data import RowSource
from lrt.pipeline.maps import MapFit
from lrt.steering import prompts_digest
from lrt.storage.cache import JSON

VERSION = 3
log = logging.getLogger(__name__)


class Forecasts:
    """The forecast of every behaviour's vector, made when first needed and cached (docs/maps.md says how well
    it predicts).

    whole  The map of the whole corpus.
    """

    def __init__(self, whole: MapFit, rows: RowSource, settings: Settings) -> None:
        self.whole, self.rows, self.settings = whole, rows, settings
        self._without: dict[str, dict[str, dict[str, Tensor]]] = {}

    def of(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        """The figures for one behaviour at a target layer, and `warning`, None where there is no reason."""
        facts = {
            "analysis": "forecast",
            "version": VERSION,
            "map": fit.fingerprint,
            "whole": self.whole.fingerprint,
            "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            "folds": self.rows.settings.folds,
            "layer": layer,
        }
        try:
            figures: dict[str, Any] = self.rows.cache.made_once(
                "analysis", facts, lambda: self._make(fit, behaviour, layer), JSON, "forecast"
            )
        except TO_BE_FIXED:
            raise
        except UserError as error:  # no reason not to measure
            return {"warning": f"no forecast: {error}"}
        except Exception as error:
            log.exception("the forecast of %s failed", behaviour.name)
            return {"warning": f"no forecast: failed ({type(error).__name__}: {error})"}
        return figures | {"warning": self._warning(behaviour.name, figures)}

    def _warning(self, name: str, figures: dict[str, Any]) -> str | None:
        least, most = self.settings.signal_to_noise, self.settings.residual_on_prompts
        warnings: list[str | None] = []
        if figures["signal_to_noise"] is not None:
            noise = Forecast(**{each.name: figures[each.name] for each in fields(Forecast)})
            # cached by contrast, which behaviours share
            warnings.append(replace(noise, vector=name).warning(least))
        hint = "Fit a map on text like them (corpus.sources.NAME.fit_map_for)"
        warnings.append(residual_warning(name, figures["residual_on_prompts"], most, hint))
        return "; ".join(filter(None, warnings)) or None

    def _make(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        states, target = fit.states[behaviour.contrast], fit.layers.target
        v, columns = states.source_vector, target.columns(layer)
        affine, whole = fit.affine.onto(columns), self.whole.affine.onto(columns)
        reference = fit.data.reference_ridge.map.directions(v)
        others = self._without_a_part(fit)[behaviour.contrast]
        return {
            **self._over_documents(fit, behaviour, layer),
            "agreement_parts": min(
                (cosine(reference[columns], other[columns]) for other in others.values()), default=None
            ),
            "agreement_whole_corpus": cosine(affine.directions(v), whole.directions(v))
            if fit.data.parts
            else None,
            "residual_on_prompts": residual_on(
                affine,
                torch.cat([states.source.positive, states.source.negative]),
                target.part(torch.cat([states.target.positive, states.target.negative]), layer),
                centred=True,
            ),
        }

    def _over_documents(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        """What other documents would have given; None where all rows are of one fold of them."""
        v, columns = fit.states[behaviour.contrast].source_vector, fit.layers.target.columns(layer)
        weight, bias, folds = fit.data.reference_ridge.weight, self.rows.settings.bias, fit.data.folds
        if len(folds) < 2:
            return {"signal_to_noise": None, "agreement_documents": None, "folds": len(folds)}
        (noise,) = jackknife(folds, {behaviour.name: v}, weight, bias=bias, columns=columns).values()
        halves = directions_of_halves(folds, weight, v[None], bias=bias)
        between = agreement([half[0, columns] for half in halves]).mean
        return asdict(noise) | {"agreement_documents": between}

    @property
    def memory(self) -> int:
        """Bytes of the moments of one part of the corpus, and of the others."""
        if len(self.rows.text.parts) < 2 or not self.rows.states.settings.keeps_states:
            return 0
        return layer_concat_bytes(*self.whole.layers, 2)

    def _without_a_part(self, fit: MapFit) -> dict[str, dict[str, Tensor]]:
        """By contrast, its transferred vector `[d_target]` by the ridge map of a fit's corpus without a part
        of the mixture, by the part."""
        if fit.fingerprint not in self._without:
            parts = fit.data.parts or self.rows.text.parts
            weight, contrasts = fit.data.reference_ridge.weight, sorted(fit.states)
            vectors = torch.stack([fit.states[name].source_vector for name in contrasts])
            images = {}
            for part, rest in self._rests(fit, parts):
                same_per_row = weight * rest.count / fit.data.train_moments.count
                images[part] = ridge_directions(rest, same_per_row, vectors, bias=self.rows.settings.bias)
            self._without[fit.fingerprint] = {
                name: {part: image[i] for part, image in images.items()} for i, name in enumerate(contrasts)
            }
        return self._without[fit.fingerprint]

    def _rests(self, fit: MapFit, parts: Sequence[str]) -> Iterator[tuple[str, Moments]]:
        """The training moments of a fit's corpus without each part that has rows, one at a time."""
        if not self.rows.states.settings.keeps_states or len(parts) < 2:  # else each is a pass over all text
            return
        whole = fit.data.train_moments
        for part in parts:
            try:
                own = self.rows.of(fit.data.layers, (part,), folds=1, held_out=False).train_moments
            except NoRows:
                continue
            if 0 < own.count < whole.count:
                yield part, whole.without(own)
