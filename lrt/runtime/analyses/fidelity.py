"""What the target makes of mapped states, by each kind of map, and of source blocks in place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrt.evaluation import fidelity, inside_documents, stitching_depths
from lrt.mapping import (
    AffineMap,
    LayerConcat,
    MapSpec,
    Moments,
    NotConverged,
    closed_form,
    mean_only,
    of_layers,
    ridge_at,
    ridge_path,
    solving_bytes,
    stack_bytes,
)
from lrt.runtime.analyses.analysis import Analysis
from lrt.runtime.rows import Rows

# What is left to gain by a closer fit is below anything that the table shows.
TOLERANCE = 1e-4
PENALTY = 0.1
LBFGS_COPIES = 90  # of the map, that the penalised fit keeps


class Fidelity(Analysis):
    """The target run on from mapped states: by the run's map, and by each kind on single tokens."""

    name = "fidelity"
    version = 2

    @property
    def asked(self) -> bool:
        return self.settings.fidelity_tokens > 0

    @property
    def stacks(self) -> tuple[LayerConcat, LayerConcat]:
        """The layers whose moments are needed: the map's, or where cuts are asked for all recorded."""
        return self.run.recorded_stacks if self.settings.stitching_depths else self.whole.stacks

    @property
    def memory(self) -> int:
        """Of three splits and the shuffled pairs, and of the largest solve."""
        source, target = self.whole.stacks
        copies = LBFGS_COPIES * ("orthogonal_penalty" in self.settings.fidelity_kinds)
        penalised = 8 * copies * source.total * target.width
        return (
            stack_bytes(*self.stacks, 3)
            + stack_bytes(*self.whole.stacks, 4)
            + max(solving_bytes(*self.stacks), penalised)
        )

    def single(self) -> Rows:
        """Single tokens of the whole corpus: what the target sees at every position."""
        return Rows(self.run, (), self.stacks, tokens=True, folds=1)

    def facts(self) -> Mapping[str, Any]:
        return {
            "map": self.whole.fingerprint,
            "rows": self.single().facts,
            "bias": self.run.config.map.bias,
            "tokens": self.settings.fidelity_tokens,
            "kinds": sorted(set(self.settings.fidelity_kinds)),
            "keep_first": self.settings.keep_first,
            "stitching_depths": self.settings.stitching_depths,
            "seed": self.run.config.seed,
        }

    def make(self) -> dict[str, Any]:
        run = self.run
        source, target = self.whole.stacks
        layer = target.layers[-1]
        tokens, scored = self._test_blocks(self.settings.fidelity_tokens)
        single = self.single()
        train, validation, test = (
            of_layers(m, single.stacks, source.layers, (layer,))
            for m in (single.train_moments, single.moments["validation"], single.moments["test"])
        )
        with run.session.stage("fidelity"):
            own = f"{run.config.map.kind.replace('_', ' ')}, this run's"
            maps = {own: self.whole.fitted_map()[0].onto(target.columns(layer))}
            notes = {own: f"as configured, on rows of {run.config.pool} tokens"}
            failed = self._kinds(train, validation, layer, maps, notes)
            cuts = self._cuts(single) if self.settings.stitching_depths else {}
            how: dict[str, Any] = {
                "scored": scored,
                "keep_first": self.settings.keep_first,
                "seed": run.config.seed,
            }
            with run.session.progress("fidelity", len(tokens) * (1 + len(cuts))) as advance:
                rows = fidelity(
                    run.source,
                    run.target,
                    source,
                    layer,
                    maps,
                    tokens,
                    train.mean_y.float(),
                    progress=advance,
                    **how,
                )
                depths = (
                    stitching_depths(
                        run.source,
                        run.target,
                        cuts,
                        tokens,
                        progress=lambda done: advance(done * len(cuts)),
                        **how,
                    )
                    if cuts
                    else []
                )
        fvu = {name: test.fvu_of(affine) for name, affine in maps.items()}
        return {
            "layer": layer,
            "rows": [row.to_data() | {"fvu": fvu.get(row.name), "note": notes.get(row.name)} for row in rows],
            "notes": failed,
            "stitching_depths": [cut.to_data() for cut in depths],
        }

    def _kinds(
        self,
        train: Moments,
        validation: Moments,
        layer: int,
        maps: dict[str, AffineMap],
        notes: dict[str, str],
    ) -> dict[str, str]:
        """Adds the best map of each kind asked for on single tokens, and two that ought to be beaten.

        What kept a kind from being fitted, by name.
        """
        bias, rank = self.run.config.map.bias, max(1, min(train.d_source, train.d_target) // 4)
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
            except (ValueError, NotConverged) as error:
                failed[name] = str(error)
                continue
            maps[name], notes[name] = fit.map, fit.note
            if name == "full" and fit.ridge_weight is not None:
                weight = fit.ridge_weight
        maps["mean only"] = mean_only(train)
        columns = self.whole.stacks[1].columns(layer)
        (shuffled,) = Rows(self.run, (), self.whole.stacks, tokens=True).shuffled_pairs(1)
        maps["shuffled pairs"] = ridge_at(shuffled.part(slice(None), columns), weight, bias=bias)
        notes["shuffled pairs"] = (
            "ridge on target rows permuted over the corpus, at the weight of the full map"
        )
        return failed

    def _cuts(self, single: Rows) -> dict[int, tuple[LayerConcat, AffineMap]]:
        """For each target layer the source's layers up to the same depth, and their ridge map."""
        source, target = single.stacks
        cuts = {}
        for at in target.layers:
            depth = (at + 1) / self.run.target.depth
            early = tuple(s for s in source.layers if (s + 1) / self.run.source.depth <= depth)
            layers = early or (min(source.layers),)
            fitted, held_out = (
                of_layers(m, single.stacks, layers, (at,))
                for m in (single.train_moments, single.moments["validation"])
            )
            best = ridge_path(fitted, held_out, bias=self.run.config.map.bias)
            cuts[at] = (LayerConcat(layers, source.width), best.map)
        return cuts

    def _test_blocks(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The first test sequences `[b, t]`, about so many tokens, and which of theirs can be predicted."""
        store = self.run.store
        context = store.plan.context
        wanted = max(1, tokens // context) * context
        held: dict[str, list[Tensor]] = {"token": [], "document": []}
        for part in store.stream("test", list(held), wanted):
            for name, column in part.items():
                held[name].append(column.clone())
            if sum(map(len, held["token"])) >= wanted:
                break
        token, document = (torch.cat(columns)[:wanted].view(-1, context) for columns in held.values())
        scored = inside_documents(document)
        some = scored[:, 2:].any(dim=1)  # of documents of one token each nothing can be predicted
        return token[some].long(), scored[some]
