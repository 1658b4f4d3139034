"""What the target makes of mapped states, by each kind of map, and of source layers in place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrt.config import Analysis as Settings
from lrt.errors import UserError
from lrt.evaluation import fidelity, inside_documents, stitching_depths
from lrt.mapping import (
    AffineMap,
    LayerConcat,
    MapSpec,
    Moments,
    closed_form,
    layer_concat_bytes,
    mean_only,
    of_layers,
    ridge_at,
    ridge_path,
    solving_bytes,
)
from lrt.pipeline.analyses.analysis import Analysis
from lrt.pipeline.fit_data import FitData, RowSource
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.maps import MapFit
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.states import RecordedStates

TOLERANCE = 1e-4  # a closer fit would gain less than the table shows
PENALTY = 0.1
LBFGS_COPIES = 90  # of the map, that the penalised fit holds


class Fidelity(Analysis):
    """The target continued from mapped states: by the run's map, and by each kind on single tokens.

    recorded  The recorded layers, at which the models are stitched.
    """

    name = "fidelity"
    version = 2
    smaller = (
        "record fewer layers, set analysis.stitching_depths=false, leave orthogonal_penalty out of "
        "analysis.fidelity_kinds, or set analysis.fidelity_tokens=0"
    )

    def __init__(
        self,
        whole: MapFit,
        rows: RowSource,
        recorded: LayerPair,
        pair: ModelPair,
        states: RecordedStates,
        settings: Settings,
        seed: int,
    ) -> None:
        self.whole, self.rows, self.pair, self.states = whole, rows, pair, states
        self.settings, self.seed, self.monitor = settings, seed, rows.monitor
        self.bias = rows.settings.bias
        self.layers = recorded if settings.stitching_depths else whole.layers
        """The layers whose moments are needed."""

    @property
    def memory(self) -> int:
        """Of three splits and the shuffled pairs, and of the largest solve."""
        source, target = self.whole.layers
        copies = LBFGS_COPIES * ("orthogonal_penalty" in self.settings.fidelity_kinds)
        penalised = 8 * copies * source.total * target.width
        return (
            layer_concat_bytes(*self.layers, 3)
            + layer_concat_bytes(*self.whole.layers, 4)
            + max(solving_bytes(*self.layers), penalised)
        )

    def single_tokens(self) -> FitData:
        """Single tokens of the whole corpus: what the target sees at every position."""
        return self.rows.of(self.layers, tokens=True, every_document=True, folds=1)

    def facts(self) -> Mapping[str, Any]:
        return {
            "map": self.whole.fingerprint,
            "rows": self.single_tokens().facts,
            "bias": self.bias,
            "tokens": self.settings.fidelity_tokens,
            "kinds": sorted(set(self.settings.fidelity_kinds)),
            "keep_first": self.settings.keep_first,
            "stitching_depths": self.settings.stitching_depths,
            "seed": self.seed,
        }

    def make(self) -> dict[str, Any]:
        pair, (source, target) = self.pair, self.whole.layers
        layer = target.layers[-1]
        tokens, scored = self._test_sequences(self.settings.fidelity_tokens)
        single = self.single_tokens()
        train, validation, test = (
            of_layers(m, single.layers, source.layers, (layer,))
            for m in (single.train_moments, single.moments["validation"], single.moments["test"])
        )
        with self.monitor.stage("fidelity"):
            own = f"{self.whole.settings.map.kind.replace('_', ' ')}, this run's"
            maps = {own: self.whole.affine.onto(target.columns(layer))}
            notes = {own: f"as configured, on pooled rows of {self.rows.settings.pool} tokens"}
            failed = self._kinds(train, validation, layer, maps, notes)
            stitched = self._stitched(single) if self.settings.stitching_depths else {}
            how: dict[str, Any] = {
                "scored": scored,
                "keep_first": self.settings.keep_first,
                "seed": self.seed,
            }
            with self.monitor.progress("fidelity", len(tokens) * (1 + len(stitched))) as advance:
                mean = train.mean_y.float().cpu()
                rows = fidelity(
                    pair.model("source"),
                    pair.target,
                    source,
                    layer,
                    maps,
                    tokens,
                    mean,
                    progress=advance,
                    **how,
                )
                depths = (
                    stitching_depths(
                        pair.model("source"),
                        pair.target,
                        stitched,
                        tokens,
                        progress=lambda done: advance(done * len(stitched)),
                        **how,
                    )
                    if stitched
                    else []
                )
        fvu = {name: test.fvu_of(affine) for name, affine in maps.items()}
        return {
            "layer": layer,
            "rows": [row.to_data() | {"fvu": fvu.get(row.name), "note": notes.get(row.name)} for row in rows],
            "notes": failed,
            "stitching_depths": [depth.to_data() for depth in depths],
        }

    def _kinds(
        self,
        train: Moments,
        validation: Moments,
        layer: int,
        maps: dict[str, AffineMap],
        notes: dict[str, str],
    ) -> dict[str, str]:
        """Adds the best map of each wanted kind on single tokens, and two that ought to be beaten.

        Returns, by name, why a kind could not be fitted.
        """
        bias, rank = self.bias, max(1, min(train.d_source, train.d_target) // 4)
        specs = {
            "full": MapSpec(bias=bias),
            f"rank {rank}": MapSpec("low_rank", rank=rank, bias=bias),
            "orthogonal": MapSpec("orthogonal", bias=bias),
            f"orthogonal penalty {PENALTY:g}": MapSpec("orthogonal_penalty", penalty=PENALTY, bias=bias),
        }
        failed = {}
        weight = 0.0
        for name, spec in specs.items():
            if spec.kind not in self.settings.fidelity_kinds:
                continue
            try:
                fit = closed_form(spec, train, validation, tolerance=TOLERANCE)
            except UserError as error:
                failed[name] = str(error)
                continue
            maps[name], notes[name] = fit.map, fit.note
            if name == "full" and fit.ridge_weight is not None:
                weight = fit.ridge_weight
        maps["mean only"] = mean_only(train)
        columns = self.whole.layers.target.columns(layer)
        (shuffled,) = self.rows.of(self.whole.layers, tokens=True, every_document=True).shuffled_pairs(1)
        maps["shuffled pairs"] = ridge_at(shuffled.part(slice(None), columns), weight, bias=bias)
        notes["shuffled pairs"] = (
            "ridge on target rows permuted over the corpus, at the weight of the full map"
        )
        return failed

    def _stitched(self, single: FitData) -> dict[int, tuple[LayerConcat, AffineMap]]:
        """For each target layer the source's layers up to the same depth, and their ridge map."""
        source, target = single.layers
        maps = {}
        for at in target.layers:
            depth = (at + 1) / self.pair.target.depth
            early = tuple(s for s in source.layers if (s + 1) / self.pair.source.depth <= depth)
            layers = early or (min(source.layers),)
            fitted, held_out = (
                of_layers(m, single.layers, layers, (at,))
                for m in (single.train_moments, single.moments["validation"])
            )
            best = ridge_path(fitted, held_out, bias=self.bias)
            maps[at] = (LayerConcat(layers, source.width), best.map)
        return maps

    def _test_sequences(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The first test sequences `[b, t]`, about so many tokens, and which of these can be predicted."""
        store = self.states.store
        context = store.plan.context
        wanted = max(1, tokens // context) * context
        parts: dict[str, list[Tensor]] = {"token": [], "document": []}
        for part in store.stream("test", list(parts), wanted):
            for name, column in part.items():
                parts[name].append(column.clone())
            if sum(map(len, parts["token"])) >= wanted:
                break
        token, document = (torch.cat(columns)[:wanted].view(-1, context) for columns in parts.values())
        scored = inside_documents(document)
        some = scored[:, 2:].any(dim=1)  # of documents of one token each nothing can be predicted
        return token[some].long(), scored[some]
