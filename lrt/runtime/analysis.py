"""What is told of the maps beside their use: every layer pair, every rank, every kind, and the forecast."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lrt.durable import write_durably
from lrt.evaluation import Behaviour, cut_depths, fidelity, inside_documents
from lrt.mapping import (
    AffineMap,
    MapSpec,
    Moments,
    Stack,
    agreement,
    atlas,
    check_stack,
    closed_form,
    jackknife,
    many_to_one,
    mean_only,
    reduced_rank_path,
    residual_on,
    ridge_at,
    ridge_path,
)
from lrt.runtime.feature_analysis import FeatureAnalysis
from lrt.runtime.fingerprints import fingerprint
from lrt.runtime.map_fit import MapFit
from lrt.runtime.rows import Rows, merged
from lrt.runtime.schema import ConfigError
from lrt.runtime.vectors import Vectors

log = logging.getLogger(__name__)


class Analysis:
    """The analyses that a run's config asks for, each made once and found again."""

    def __init__(self, run: Vectors, whole: MapFit) -> None:
        self.run, self.whole, self.settings = run, whole, run.config.analysis

    @cached_property
    def features(self) -> FeatureAnalysis:
        """The sparse autoencoders."""
        return FeatureAnalysis(self.run)

    def check(self) -> None:
        """Raises ConfigError where the moments of all recorded layers would not fit in memory, and ValueError
        for autoencoders that are not of the map's layers."""
        if self.settings.sae.wanted and not self.run.automatic:
            self.features.check()
        if not (self.settings.atlas or self.settings.many_to_one):
            return
        try:
            check_stack(*self.run.recorded_stacks, self.copies, int(self.settings.memory_gb * 1e9))
        except ValueError as error:
            raise ConfigError(
                f"{error}; record fewer blocks (recording.source, recording.target), raise "
                "analysis.memory_gb, or set analysis.atlas=false and analysis.many_to_one=false"
            ) from error

    @property
    def copies(self) -> int:
        """How many moments of all recorded layers are held at once."""
        return self.run.config.evaluation.folds + 4

    @cached_property
    def results(self) -> dict[str, Any]:
        """By name: what was asked for, and nothing of what was not."""
        run = self.run
        name = fingerprint(
            {
                "map": self.whole.fingerprint,
                "layers": [stack.layers for stack in run.recorded_stacks],
                "folds": run.config.evaluation.folds,
                "suite": {name: b.to_data() for name, b in sorted(run.contrasts.items())},
                "analysis": asdict(self.settings),
                "evaluation": asdict(run.config.evaluation) | {"probe": None, "max_rows": None},
            }
        )
        file = run.artifacts / "analysis" / f"{name}.json"
        if not file.is_file():
            made = {
                part: make()
                for part, asked, make in (
                    ("rank_curve", self.settings.rank_curve, self._rank_curve),
                    ("atlas", self.settings.atlas, self._atlas),
                    (
                        "many_to_one",
                        self.settings.many_to_one and len(run.recorded_stacks[0].layers) > 1,
                        self._many_to_one,
                    ),
                    ("fidelity", self.settings.fidelity_tokens > 0, self._fidelity),
                    ("sae", self.settings.sae.wanted, self.features.results),
                )
                if asked
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, json.dumps(made).encode())
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    @cached_property
    def rows(self) -> Rows:
        """The whole corpus's rows at all recorded layers."""
        return Rows(self.run, (), self.run.recorded_stacks)

    # -- layers and ranks ----------------------------------------------------------------------

    def _atlas(self) -> list[dict[str, Any]]:
        source, target = self.run.recorded_stacks
        moments, vectors = self.rows.moments, self.run.recorded_states
        with (
            self.run.session.stage("atlas"),
            self.run.session.progress("atlas", len(source.layers) * len(target.layers)) as advance,
        ):
            cells = atlas(
                self.rows.train_moments,
                moments["validation"],
                moments["test"],
                source,
                target,
                {name: (states.source_vector, states.target_vector) for name, states in vectors.items()},
                bias=self.run.config.map.bias,
                progress=lambda _done, _all: advance(1),
            )
        return [asdict(cell) for cell in cells]

    def _rank_curve(self) -> dict[str, Any]:
        """FVU on test documents against rank, of the best map of each rank and of the truncated ridge map."""
        whole = self.whole
        with self.run.session.stage("ranks"):
            best, weight = whole.yardstick.map, whole.yardstick.weight
            path = reduced_rank_path(whole.train_moments, weight, bias=self.run.config.map.bias)
            fvu = path.fvu(whole.moments["test"]).tolist()
            ranks = sorted({*(2**i for i in range(20) if 2**i <= len(fvu)), len(fvu)})
            U, s, Vt = torch.linalg.svd(best.weight, full_matrices=False)
            truncated = []
            for rank in ranks:
                weight_of_rank = (U[:, :rank] * s[:rank]) @ Vt[:rank]
                bias = best.points(whole.train_moments.mean_x) - weight_of_rank @ whole.train_moments.mean_x
                if not self.run.config.map.bias:
                    bias = torch.zeros_like(bias)
                truncated.append(whole.moments["test"].fvu_of(AffineMap(weight_of_rank, bias)))
            return {
                "ranks": ranks,
                "fvu": [fvu[rank - 1] for rank in ranks],
                "truncated_fvu": truncated,
                # of a map that explains nothing no rank has a share
                "rank_95": path.rank_for(whole.moments["test"], 0.95) if fvu[-1] < 1 else None,
            }

    def _many_to_one(self) -> list[dict[str, Any]]:
        """Every recorded source layer, alone and together, to each recorded target layer (appendix A)."""
        with self.run.session.stage("many to one"):
            moments = self.rows.moments
            found = many_to_one(
                self.rows.train_moments,
                moments["validation"],
                moments["test"],
                *self.run.recorded_stacks,
                bias=self.run.config.map.bias,
            )
        return [asdict(each) for each in found]

    # -- what the target makes of it -----------------------------------------------------------

    def _fidelity(self) -> dict[str, Any]:
        """The target run on from mapped states: by the run's map, and by every kind on single tokens."""
        run, config = self.run, self.run.config
        source, target = self.whole.stacks
        layer = target.layers[-1]
        tokens, scored = self._test_blocks(self.settings.fidelity_tokens)
        # all recorded layers where their moments are known to fit in memory
        wide = self.settings.atlas or self.settings.many_to_one
        single = Rows(run, (), run.recorded_stacks if wide else self.whole.stacks, span=1)
        train, validation, test = (
            of_layers(m, single.stacks, source.layers, layer)
            for m in (single.train_moments, single.moments["validation"], single.moments["test"])
        )
        with run.session.stage("fidelity"):
            kinds = {
                f"{config.map.kind.replace('_', ' ')}, this run's": rows_of(
                    self._map(), target.columns(layer)
                )
            }
            kinds |= self._kinds(train, validation)
            cuts = self._cuts(single)
            steps = len(tokens) * (1 + len(cuts))
            how: dict[str, Any] = {
                "scored": scored,
                "keep_first": self.settings.keep_first,
                "seed": config.seed,
            }
            with run.session.progress("fidelity", steps) as advance:
                rows = fidelity(
                    run.source,
                    run.target,
                    source,
                    layer,
                    kinds,
                    tokens,
                    train.mean_y.float(),
                    progress=advance,
                    **how,
                )
                depths = cut_depths(
                    run.source,
                    run.target,
                    cuts,
                    tokens,
                    progress=lambda done: advance(done * len(cuts)),
                    **how,
                )
        fvu = {name: test.fvu_of(affine) for name, affine in kinds.items()}
        return {
            "layer": layer,
            "rows": [row.to_data() | {"fvu": fvu.get(row.name)} for row in rows],
            "cuts": [cut.to_data() for cut in depths],
        }

    def _cuts(self, single: Rows) -> dict[int, tuple[Stack, AffineMap]]:
        """For each target layer the source's layers up to the same depth, and their ridge map."""
        source, target = single.stacks
        cuts = {}
        for at in target.layers:
            depth = (at + 1) / self.run.target.depth
            early = tuple(s for s in source.layers if (s + 1) / self.run.source.depth <= depth)
            layers = early or (min(source.layers),)
            fitted, held_out = (
                of_layers(m, single.stacks, layers, at)
                for m in (single.train_moments, single.moments["validation"])
            )
            best = ridge_path(fitted, held_out, bias=self.run.config.map.bias)
            cuts[at] = (Stack(layers, source.width), best.map)
        return cuts

    def _map(self) -> AffineMap:
        affine, _ = self.whole.fitted_map()
        return affine

    def _kinds(self, train: Moments, validation: Moments) -> dict[str, AffineMap]:
        """The best map of every kind on some rows, and two that ought to be beaten."""
        rank = max(1, min(train.d_source, train.d_target) // 4)
        specs = {
            "full": MapSpec(),
            f"rank {rank}": MapSpec("low_rank", rank=rank),
            "orthogonal": MapSpec("orthogonal"),
            "orthogonal penalty .1": MapSpec("orthogonal_penalty", penalty=0.1),
        }
        found = {
            # what is left to gain is below anything that the table shows
            name: closed_form(spec, train, validation, tolerance=1e-4).map
            for name, spec in specs.items()
        }
        columns = self.whole.stacks[1].columns(self.whole.stacks[1].layers[-1])
        shuffled = self.whole.shuffled[0].part(slice(None), columns)
        return found | {
            "mean only": mean_only(train),
            "shuffled pairs": ridge_at(shuffled, self.whole.yardstick.weight),
        }

    def _test_blocks(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The first test sequences `[b, t]`, about so many tokens, and which of theirs can be predicted."""
        store = self.run.store
        context = store.plan.context
        wanted = max(1, tokens // context) * context
        held = {"token": [], "document": []}  # type: dict[str, list[Tensor]]
        for part in store.stream("test", list(held), wanted):
            for name, column in part.items():
                held[name].append(column.clone())
            if sum(map(len, held["token"])) >= wanted:
                break
        token, document = (torch.cat(columns)[:wanted].view(-1, context) for columns in held.values())
        scored = inside_documents(document)
        some = scored[:, 2:].any(dim=1)  # of documents of one token each nothing can be predicted
        return token[some].long(), scored[some]

    # -- forecast ------------------------------------------------------------------------------

    def forecast(self, fit: MapFit, behaviour: Behaviour, layer: int) -> dict[str, Any]:
        """What can be said of a carried vector before any steering (docs/maps.md says how well it tells)."""
        states, stack = fit.states[behaviour.contrast], fit.stacks[1]
        v, bias, columns = states.source_vector, self.run.config.map.bias, stack.columns(layer)
        weight, affine = fit.yardstick.weight, rows_of(fit.fitted_map()[0], columns)
        (noise,) = jackknife(fit.folds, {behaviour.name: v}, weight, bias=bias, columns=columns).values()
        halves = [merged(fit.folds[half::2]) for half in (0, 1)]
        documents = agreement([ridge_at(half, weight / 2, bias=bias) for half in halves], v, columns)
        whole = rows_of(self._map(), columns)
        residual = residual_on(
            affine,
            torch.cat(states.source),
            stack.part(torch.cat(states.target), layer),
            centred=True,
        )
        warnings, most = [noise.warning(self.settings.signal_to_noise)], self.settings.residual_on_prompts
        if residual > most:
            warnings.append(
                f"the map leaves {residual:.0%} of what varies among the contrastive texts of "
                f"{behaviour.name} unexplained (at most {most:.0%} is wanted): let a map of text like them "
                "carry it (corpus.sources.NAME.carries)"
            )
        return {
            **asdict(noise),
            "agreement_documents": documents.mean,
            "agreement_whole_corpus": agreement([affine, whole], v).mean if fit.parts else None,
            "residual_on_prompts": residual,
            "warning": "; ".join(filter(None, warnings)) or None,
        }


def of_layers(
    moments: Moments, stacks: tuple[Stack, Stack], source_layers: tuple[int, ...], target_layer: int
) -> Moments:
    """Moments of some source layers with one target layer, out of those of stacks."""
    source, target = stacks
    return moments.part(source.columns_of(source_layers), target.columns(target_layer))


def rows_of(affine: AffineMap, columns: slice) -> AffineMap:
    """The part of a map that goes to some columns of the target."""
    return AffineMap(affine.weight[columns], affine.bias[columns])
