"""Which layers and which rank: every recorded pair, all source layers together, and every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lrt.evaluation import ContrastStates
from lrt.mapping import (
    Moments,
    atlas,
    layer_concat_bytes,
    many_to_many,
    many_to_one,
    rank_curve,
    solving_bytes,
)
from lrt.pipeline.analyses.analysis import Analysis
from lrt.pipeline.fit_data import FitData, RowSource
from lrt.pipeline.layers import LayerPair

FEWER_SOURCE = "record fewer layers (recording.source) or set analysis.many_to_one=false"


class OfAllLayers(Analysis):
    """An analysis of the moments of all recorded layers side by side."""

    def __init__(self, rows: RowSource, layers: LayerPair) -> None:
        self.rows, self.layers = rows, layers
        self.monitor, self.bias = rows.monitor, rows.settings.bias

    @property
    def memory(self) -> int:
        """Of three splits, and of the largest solve."""
        return layer_concat_bytes(*self.layers, 3) + solving_bytes(*self.layers)

    def data(self) -> FitData:
        """The whole corpus's rows; not held, since their moments are the largest thing of a run."""
        return self.rows.of(self.layers, folds=1)

    def splits(self) -> tuple[Moments, Moments, Moments]:
        """Moments of the training, validation and test rows."""
        data = self.data()
        return data.train_moments, data.moments["validation"], data.moments["test"]

    def facts(self) -> Mapping[str, Any]:
        return {"rows": self.data().facts, "bias": self.bias}


class RecordedAtlas(OfAllLayers):
    """Every recorded source layer against every recorded target layer."""

    name = "atlas"
    version = 2
    smaller = (
        "record fewer layers (recording.source, recording.target), set analysis.atlas=false, or use make "
        "atlas, which needs less"
    )

    def __init__(
        self,
        rows: RowSource,
        layers: LayerPair,
        states: Mapping[str, ContrastStates],
        prompts: Mapping[str, str],
    ) -> None:
        super().__init__(rows, layers)
        self.states, self.prompts = states, prompts

    @property
    def memory(self) -> int:
        """Those, and of the test documents' single tokens, filtered and all."""
        return super().memory + layer_concat_bytes(*self.layers, 2)

    def facts(self) -> Mapping[str, Any]:
        return {**super().facts(), "vectors": self.prompts}

    def make(self) -> list[dict[str, Any]]:
        source, target = self.layers
        splits, tokens = self.splits(), self.data().token_moments
        with (
            self.monitor.stage("atlas"),
            self.monitor.progress("atlas", len(source.layers) * len(target.layers)) as advance,
        ):
            cells = atlas(
                *splits,
                source,
                target,
                {name: (each.source_vector, each.target_vector) for name, each in self.states.items()},
                bias=self.bias,
                beside={"tokens": tokens["kept"], "unfiltered": tokens["unfiltered"]},
                device=self.data().device,
                progress=lambda _done, _all: advance(1),
            )
        return [asdict(cell) for cell in cells]


class SourcesTogether(OfAllLayers):
    """Every recorded source layer, alone and together, to each recorded target layer (appendix A)."""

    name = "many_to_one"
    smaller = FEWER_SOURCE

    def make(self) -> list[dict[str, Any]]:
        splits = self.splits()
        with self.monitor.stage("many to one"):
            results = many_to_one(*splits, *self.layers, bias=self.bias)
        return [asdict(each) for each in results]


class AllTogether(OfAllLayers):
    """All recorded source layers to all recorded target layers by one map (appendix A)."""

    name = "many_to_many"
    smaller = FEWER_SOURCE

    def make(self) -> dict[str, Any]:
        splits = self.splits()
        with self.monitor.stage("many to many"):
            result = many_to_many(*splits, *self.layers, bias=self.bias)
        return {"fvu": result.fvu, "ridge_weight": result.weight, "fvu_layer": dict(result.fvu_layer)}


class RankCurve(Analysis):
    """FVU on test documents against rank, of the best map of each rank and of the truncated ridge map."""

    name = "rank_curve"
    smaller = "set analysis.rank_curve=false"

    def __init__(self, data: FitData) -> None:
        self.fit_data = data

    @property
    def memory(self) -> int:
        return solving_bytes(*self.fit_data.layers)

    def facts(self) -> Mapping[str, Any]:
        return {"rows": self.fit_data.facts, "bias": self.fit_data.settings.bias}

    def make(self) -> dict[str, Any]:
        data = self.fit_data
        with data.monitor.stage("rank curve"):
            curve = rank_curve(
                data.reference_ridge, data.train_moments, data.moments["test"], bias=data.settings.bias
            )
        return asdict(curve)
