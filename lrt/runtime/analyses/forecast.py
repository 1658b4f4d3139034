"""What can be said of a carried vector before any steering, and when to warn of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from lrt.activations import NoRows
from lrt.evaluation import Behaviour
from lrt.mapping import (
    AffineMap,
    Forecast,
    Moments,
    agreement,
    jackknife,
    leave_one_out,
    residual_on,
    ridge_at,
    stack_bytes,
)
from lrt.runtime.analyses.analysis import NO_FINDING, kept
from lrt.runtime.map_fit import MapFit
from lrt.runtime.rows import Rows, merged
from lrt.runtime.vectors import Vectors
from lrt.steering import prompts_digest

VERSION = 2


class Forecasts:
    """The forecast of every behaviour's vector, made once (docs/maps.md says how well it tells)."""

    def __init__(self, run: Vectors, whole: MapFit) -> None:
        self.run, self.whole, self.settings = run, whole, run.config.analysis
        self._without: dict[str, list[AffineMap]] = {}

    def of(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        """The figures for one behaviour at a target layer, and `warning`, None where all is well."""
        facts = {
            "map": fit.fingerprint,
            "whole": self.whole.fingerprint,
            "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            "folds": self.run.config.evaluation.folds,
            "layer": layer,
        }
        try:
            found: dict[str, Any] = kept(
                self.run, "forecast", VERSION, facts, lambda: self._make(fit, behaviour, layer)
            )
        except NO_FINDING:
            raise
        except ValueError as error:  # a forecast that cannot be had is no reason not to measure
            return {"warning": f"no forecast: {error}"}
        return found | {"warning": self._warning(behaviour.name, found)}

    def _warning(self, name: str, found: dict[str, Any]) -> str | None:
        least, most = self.settings.signal_to_noise, self.settings.residual_on_prompts
        said: list[str | None] = []
        if found["signal_to_noise"] is not None:
            noise = Forecast(**{each.name: found[each.name] for each in fields(Forecast)})
            # kept by what determines it, which behaviours of one contrast share
            said.append(replace(noise, vector=name).warning(least))
        if (residual := found["residual_on_prompts"]) > most:
            said.append(
                f"the map leaves {residual:.0%} of what varies among the contrastive texts of {name} "
                f"unexplained (at most {most:.0%} is wanted): let a map of text like them carry it "
                "(corpus.sources.NAME.fit_map_for)"
            )
        return "; ".join(filter(None, said)) or None

    def _make(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        states, stack = fit.states[behaviour.contrast], fit.stacks[1]
        v, columns = states.source_vector, stack.columns(layer)
        affine = fit.fitted_map()[0].onto(columns)
        whole = self.whole.fitted_map()[0].onto(columns)
        others = self._without_a_part(fit)
        return {
            **self._over_documents(fit, behaviour, layer),
            "agreement_parts": min(
                (agreement([fit.reference_ridge.map, other], v, columns).mean for other in others),
                default=None,
            ),
            "agreement_whole_corpus": agreement([affine, whole], v).mean if fit.parts else None,
            "residual_on_prompts": residual_on(
                affine,
                torch.cat(states.source),
                stack.part(torch.cat(states.target), layer),
                centred=True,
            ),
        }

    def _over_documents(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        """What other documents would have given; nothing where all rows are of one fold of them."""
        v, columns = fit.states[behaviour.contrast].source_vector, fit.stacks[1].columns(layer)
        weight, bias, folds = fit.reference_ridge.weight, self.run.config.map.bias, fit.folds
        if len(folds) < 2:
            return {"signal_to_noise": None, "agreement_documents": None, "folds": len(folds)}
        (noise,) = jackknife(folds, {behaviour.name: v}, weight, bias=bias, columns=columns).values()
        halves = [merged(folds[half::2]) for half in (0, 1)]
        maps = at_shares(halves, weight, bias=bias)
        return asdict(noise) | {"agreement_documents": agreement(maps, v, columns).mean}

    @property
    def memory(self) -> int:
        """Bytes of the moments of every part of the corpus, and of what is merged to leave out one."""
        parts = len(self.run.config.corpus.sources)
        if parts < 2 or not self.run.keeps_states:
            return 0
        return stack_bytes(*self.whole.stacks, parts + math.ceil(math.log2(parts)) + 1)

    def _without_a_part(self, fit: MapFit) -> list[AffineMap]:
        """The ridge maps of a fit's corpus with one part of the mixture left out at a time."""
        parts = fit.parts or tuple(self.run.config.corpus.sources)
        if len(parts) < 2 or not self.run.keeps_states:  # each would be a pass over all text
            return []
        if fit.fingerprint not in self._without:
            of = [m for part in parts if (m := self._part(part, fit)) is not None]
            total = sum(m.count for m in of)
            self._without[fit.fingerprint] = [
                ridge_at(m, fit.reference_ridge.weight * m.count / total, bias=self.run.config.map.bias)
                for m in (leave_one_out(of) if len(of) > 1 else ())
            ]
        return self._without[fit.fingerprint]

    def _part(self, part: str, fit: MapFit) -> Moments | None:
        """A part's training moments at a fit's layers; None where it has no row of its own."""
        try:
            return Rows(self.run, (part,), fit.stacks, folds=1, held_out=False).train_moments
        except NoRows:
            return None


def at_shares(disjoint: Sequence[Moments], weight: float, *, bias: bool) -> list[AffineMap]:
    """Ridge maps of disjoint rows, each at its share by rows of the weight of all."""
    total = sum(moments.count for moments in disjoint)
    return [ridge_at(m, weight * m.count / total, bias=bias) for m in disjoint]
