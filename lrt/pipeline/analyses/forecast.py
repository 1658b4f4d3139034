"""The forecast of a transferred vector, before any steering, and when it warns."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from lrt.config import Analysis as Settings
from lrt.errors import UserError
from lrt.evaluation import Behaviour
from lrt.mapping import (
    Forecast,
    agreement,
    cosine,
    directions_of_halves,
    jackknife,
    residual_on,
    residual_warning,
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
        return figures | {"warning": self._warning(behaviour, figures)}

    def _warning(self, behaviour: Behaviour, figures: dict[str, Any]) -> str | None:
        name, most = behaviour.name, self.settings.residual_on_prompts
        least = self.settings.least_signal_to_noise(behaviour.is_choice)
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
        kind = fit.kind_of(behaviour.contrast, columns)
        return {
            **self._over_documents(fit, behaviour, layer),
            "agreement_parts": kind.cosine if kind else None,
            "part": kind.part if kind else None,
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
