"""What the map's corpus gives away: how much of a transferred vector untrained sources explain."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrt.errors import UserError
from lrt.evaluation import Behaviour
from lrt.mapping import cosine, rest_beside
from lrt.pipeline.analyses.analysis import TO_BE_FIXED
from lrt.pipeline.analyses.forecast import Forecasts
from lrt.pipeline.maps import MapFit
from lrt.pipeline.pair import UntrainedSource
from lrt.steering import prompts_digest
from lrt.storage.cache import JSON

VERSION = 1
log = logging.getLogger(__name__)


class GivenAway:
    """How much of each behaviour's `W v` untrained sources explain, by the whole corpus of its map and
    without the part that the vector depends on most; cached (docs/maps.md says how to read it).

    A source with random weights tells tokens apart, and no more. Where the corpus holds the contrast, its
    map passes on whatever is read off tokens.
    """

    def __init__(self, forecasts: Forecasts, untrained: Sequence[UntrainedSource]) -> None:
        self._forecasts, self._untrained = forecasts, tuple(untrained)
        self._transferred: dict[tuple[str, str | None], dict[str, Tensor]] = {}

    def of(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any] | None:
        """The figures of one behaviour at a target layer, or under `note` why there are none; None without
        untrained sources.

        whole         `explained` by the map's whole corpus.
        part          The part of the corpus without which `W v` changes most: the behaviour's kind of text.
        without_part  `explained` by the corpus without it; None where the map has no two parts.
        fvu           FVU on validation rows of the source's ridge map, and of each untrained source's.
        """
        if not self._untrained:
            return None
        facts = {
            "analysis": "given_away",
            "version": VERSION,
            "map": fit.fingerprint,
            "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            "untrained": [each.identity for each in self._untrained],
            "layer": layer,
        }
        cache = self._forecasts.rows.cache
        try:
            figures: dict[str, Any] = cache.made_once(
                "analysis", facts, lambda: self._make(fit, behaviour.contrast, layer), JSON, "given away"
            )
        except TO_BE_FIXED:
            raise
        except UserError as error:  # no reason not to measure
            return {"note": str(error)}
        except Exception as error:
            log.exception("what the corpus gives away of %s could not be computed", behaviour.name)
            return {"note": f"failed ({type(error).__name__}: {error})"}
        return figures

    def _make(self, fit: MapFit, contrast: str, layer: int) -> dict[str, Any]:
        states, columns = fit.states[contrast], fit.layers.target.columns(layer)
        native = states.target_vector[columns]
        transferred = fit.affine.directions(states.source_vector)[columns]
        without: dict[str, Any] | None = None
        kind = fit.kind_of(contrast, columns)
        if kind is not None:
            rest = [*self._by_untrained(fit, kind.part)[contrast][:, columns]]
            without = explained(kind.without, rest, native)
            without["cosine_with_whole"] = cosine(kind.without, transferred)
        untrained = [*self._by_untrained(fit, None)[contrast][:, columns]]
        return {
            "whole": explained(transferred, untrained, native),
            "part": kind.part if kind else None,
            "without_part": without,
            "fvu": fit.data.reference_ridge.fvu_validation,
            "fvu_untrained": [fit.refit.own_ridge(each)["fvu_validation"] for each in self._untrained],
        }

    def _by_untrained(self, fit: MapFit, without: str | None) -> dict[str, Tensor]:
        """By contrast, its vectors as the map of each untrained source transfers them, `[sources, d_target]`;
        by the whole corpus of a map, or without a part. Solved once for all contrasts of a map."""
        key = fit.fingerprint, without
        if key not in self._transferred:
            by_source = []
            for number, source in enumerate(self._untrained):
                vectors = [fit.states[name].untrained_sources[number].difference() for name in fit.states]
                directions = (
                    fit.refit.on_untrained(source)
                    if without is None
                    else fit.refit.on_untrained_without(source, fit.data.of_part(without))
                )
                by_source.append(directions(torch.stack(vectors)))  # [contrasts, d_target]
            by_contrast = torch.stack(by_source, dim=1)
            self._transferred[key] = dict(zip(fit.states, by_contrast, strict=True))
        return self._transferred[key]


def explained(transferred: Tensor, untrained: Sequence[Tensor], native: Tensor) -> dict[str, Any]:
    """How much of a transferred vector those of untrained sources explain; all `[d]` at one target layer.

    share            Of its squared length within the span of theirs; `share_chance` is what random directions
                     of their number hold.
    cosine_untrained, untrained_native  Of each of theirs with it, and with the native vector.
    native           Of it with the native vector; `native_beyond` that of the rests of both beside the span,
                     which no untrained source accounts for.
    """
    span = torch.stack([*untrained]).double()
    beyond, native_beyond = rest_beside(transferred, span), rest_beside(native, span)
    length = transferred.double().square().sum()
    return {
        "share": 1 - float(beyond.square().sum() / length) if length > 0 else 0.0,
        "share_chance": len(untrained) / len(native),
        "cosine_untrained": [cosine(transferred, each) for each in untrained],
        "untrained_native": [cosine(native, each) for each in untrained],
        "native": cosine(transferred, native),
        "native_beyond": cosine(beyond, native_beyond),
    }
