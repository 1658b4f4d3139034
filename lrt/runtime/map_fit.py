"""One map: trained by Lightning on the whole corpus or on some parts of it, with its card."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lrt.activations import pairs_with_other_source
from lrt.activations.manifest import Side
from lrt.evaluation import Behaviour, ContrastStates, SteeringEvalCallback, TrackedBehaviour, TransferMaps
from lrt.mapping import (
    AffineMap,
    ClosedFormSpec,
    DirectionalRidge,
    FitHistory,
    FitSpec,
    MapForeign,
    MapModule,
    MapSpec,
    MeanCosine,
    Moments,
    closed_form,
    early_stopping,
    from_embeddings,
    gcv_curve,
    identity,
    load_map,
    mean_only,
    ridge_along,
    ridge_at,
    ridge_per_direction,
    save_map,
)
from lrt.mapping.many_to_one import PERFECT
from lrt.runtime.provenance import provenance
from lrt.runtime.rows import Rows, cached_moments, merged
from lrt.runtime.schema import ConfigError
from lrt.runtime.vectors import Vectors
from lrt.steering import SteeringVector, prompts_digest, transfer
from lrt.storage.checkpoints import DurableCheckpoints, RelocatableCheckpoint, resuming
from lrt.storage.durable import one_writer, sweep
from lrt.storage.fingerprint import fingerprint

# settings of the Trainer that leave a map as it is
NOT_IN_THE_MAP = ("accelerator", "enable_progress_bar", "log_every_n_steps", "enable_model_summary")


Solved = dict[str, Any]  # how a closed form was found: `note`, and `ridge_weight` where it has one


class MapFit(Rows):
    """The map of some rows, and the behaviours whose vectors it carries."""

    has_null = True

    def __init__(self, run: Vectors, parts: tuple[str, ...], carried: tuple[Behaviour, ...]) -> None:
        super().__init__(run, parts)
        self.carried = carried

    @cached_property
    def contrasts(self) -> dict[str, Behaviour]:
        """One carried behaviour for each contrastive set, by the contrast's name."""
        return {behaviour.contrast: behaviour for behaviour in reversed(self.carried)}

    @cached_property
    def states(self) -> dict[str, ContrastStates]:
        """States of the contrastive sets at this map's layers."""
        return self.run.states_at(self.stacks)

    # -- the fit -------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Of the fitted map."""
        config = self.run.config
        facts = {
            **self.facts,
            "map": config.map,
            "fit": config.fit,
            "seed": config.seed,
        }
        if isinstance(config.fit, FitSpec):
            facts["batches"] = asdict(config.batches) | {"workers": None}
            facts["trainer"] = {k: v for k, v in config.trainer.items() if k not in NOT_IN_THE_MAP}
        return fingerprint(facts)

    @property
    def folder(self) -> Path:
        """Where the map is, or will be."""
        return self.run.artifacts / "maps" / self.fingerprint

    def fitted_map(self) -> tuple[AffineMap, dict[str, Any]]:
        """The map and its card. Raises MapMissing saying which `train.py` line makes it."""
        folder = self.folder
        again = f"make it with: {self.train_command()}"
        if (folder / "mapping.json").is_file():
            again = f"delete the folder {folder} and {again}"
        affine, card = load_map(folder, fix_hint=again)
        if card.get("fingerprint") != self.fingerprint:
            raise MapForeign(f"{folder} holds the map of other settings. {again}")
        return affine, card

    def card(self) -> dict[str, Any]:
        """The map's card, with what it says along the vectors that are carried now."""
        affine, card = self.fitted_map()
        if card["prompts"] == self._prompts:
            return card
        metrics = {**card["metrics"], **self._along_vectors(affine)}
        return {**card, "prompts": self._prompts, "metrics": metrics}

    @cached_property
    def _prompts(self) -> dict[str, str]:
        """Digests of the contrastive sets by name."""
        return {
            name: prompts_digest(behaviour.positives, behaviour.negatives)
            for name, behaviour in sorted(self.contrasts.items())
        }

    def _along_vectors(self, affine: AffineMap) -> dict[str, Any]:
        test = self.moments["test"]
        return {
            "error_along": {
                name: test.error_along(affine, vector) for name, vector in self._native_vectors.items()
            },
            "cosine_with_native": self._cosines(affine),
        }

    def train_command(self) -> str:
        """The `train.py` line of this config."""
        given = self.run.session.resolved.get("overrides", [])
        return f"python train.py {shlex.join(given)}".rstrip()

    def fit(self) -> tuple[AffineMap, dict[str, Any]]:
        """Solves the map, or trains it with Lightning, resuming where a run was cut off; or finds it, and
        adds the vectors of behaviours that it was not asked to carry before."""
        if (self.folder / "mapping.json").is_file():
            with self.run.session.stage("fit"):
                affine, card = self.fitted_map()
                if card["prompts"] != self._prompts:
                    self._save_vectors(affine, known=card["prompts"])
                return affine, self.card()
        match self.run.config.fit:
            case FitSpec() as spec:
                self._train(spec)
            case ClosedFormSpec() as spec:
                with self.run.session.stage("fit"):
                    affine, solved = self._solve(spec)
                self._keep(affine, FitHistory(), None, 0, self._mean_cosine(affine), solved)
        return self.fitted_map()

    def _train(self, spec: FitSpec) -> None:
        module = self._module(spec)
        history, probe = FitHistory(), self._probe()
        with self.run.session.stage("fit"), ExitStack() as holding:
            trainer = self._trainer(spec, history, probe)
            if trainer.is_global_zero:  # the other processes of a distributed fit write nothing
                busy = one_writer(self.folder, "fitting the map in", ConfigError, ConfigError)
                holding.enter_context(busy)
            checkpoints = self.folder / "checkpoints"
            last = checkpoints / "last.ckpt"
            if trainer.is_global_zero and checkpoints.is_dir():
                sweep(checkpoints)
            trainer.fit(module, datamodule=self.data, ckpt_path=last if last.is_file() else None)
            best = checkpoints / "best.ckpt"
            if best.is_file():
                DurableCheckpoints().load_checkpoint(best)  # tells of damage in words
                module = MapModule.load_from_checkpoint(best, weights_only=True)
            steps = trainer.global_step
            (scores,) = trainer.test(module, datamodule=self.data, verbose=False)
            affine = module.affine().to("cpu")
        if trainer.is_global_zero:
            self._keep(affine, history, probe, steps, scores["test/cosine"])
        trainer.strategy.barrier("map written")

    def _solve(self, spec: ClosedFormSpec) -> tuple[AffineMap, Solved]:
        """The map in closed form, from the moments alone, and how it was found."""
        run, train = self.run, self.train_moments
        weight: float | None = None
        match spec.solver:
            case "optimum":
                fit = closed_form(run.config.map, train, self.moments["validation"])
                found, weight, note = fit.map, fit.ridge_weight, fit.note
            case "ridge_per_direction":
                found = self.directional.map
                note = "ridge regression, each principal direction of the target with a weight of its own"
            case "mean_only":
                found, note = mean_only(train), "the target's mean state, whatever the source's"
            case "identity":
                found, note = identity(train), "the identity, means aligned"
            case "shuffled_pairs":
                weight = self.reference_ridge.weight
                found = ridge_at(self.shuffled[0], weight, bias=run.config.map.bias)
                over = "the corpus" if run.keeps_states else "windows of the corpus"
                note = f"ridge regression on pairs whose target rows are permuted over {over}"
            case "embeddings":
                found = from_embeddings(run.source.embeddings, run.target.embeddings, train)
                note = "ridge regression between the embedding matrices; the bias of the training rows"
        return found.to(torch.float32), {"note": note, "ridge_weight": weight}

    def _mean_cosine(self, affine: AffineMap) -> float:
        """Mean cosine of mapped and recorded test rows."""
        metric = MeanCosine()
        for batch in self.in_order.iterate("test"):
            metric.update(affine.points(batch["source"]), batch["target"])
        return float(metric.compute())

    def _keep(
        self,
        affine: AffineMap,
        history: FitHistory,
        probe: SteeringEvalCallback | None,
        steps: int,
        mean_cosine: float,
        solved: Solved | None = None,
    ) -> None:
        card = self._card(affine, history, probe, steps, mean_cosine) | {"solved": solved}
        self._save_vectors(affine)
        save_map(self.folder, affine, card)  # last: a folder with its card is whole

    def _module(self, spec: FitSpec) -> MapModule:
        reference_ridge, start = self.reference_ridge, None
        rows, width = self.train_moments.count, self.train_moments.d_source
        # the orthogonal kinds are held by more than the rows
        free = self.run.config.map.kind in ("full", "low_rank")
        if free and not spec.ridge and rows <= width:
            raise ConfigError(
                f"{rows} rows do not determine a map of {width} source dimensions without a ridge: set "
                "fit.ridge=true, or give more rows (corpus.tokens.train, a smaller span)"
            )
        if spec.start != "mean":
            of = {
                "optimum": self.run.config.map,
                "ridge": MapSpec(bias=self.run.config.map.bias),
                "procrustes": MapSpec("orthogonal", bias=self.run.config.map.bias),
            }
            start = closed_form(of[spec.start], self.train_moments, self.moments["validation"]).map
        test = self.moments["test"].fvu_of(reference_ridge.map)
        return MapModule.from_moments(
            self.run.config.map,
            spec,
            self.train_moments,
            reference_ridge=reference_ridge,
            optimum={"val": reference_ridge.fvu_validation, "test": test},
            vectors=self._native_vectors,
            start=start,
            seed=self.run.config.seed,
        )

    def _at_target_layers(self) -> Iterator[tuple[str, ContrastStates, int]]:
        """Every contrast at every target layer: its label (`name`, of several layers `name@layer`), its
        states and the layer."""
        layers = self.stacks[1].layers
        for name in self.contrasts:
            states = self.states[name]
            for layer in layers:
                yield f"{name}@{layer}" if len(layers) > 1 else name, states, layer

    @property
    def _native_vectors(self) -> dict[str, Tensor]:
        """Native vectors `[d_target]` of the whole stack, zero but at one layer, by label."""
        stack = self.stacks[1]
        return {
            label: stack.alone(states.target_vector, layer)
            for label, states, layer in self._at_target_layers()
        }

    def _probe(self) -> SteeringEvalCallback | None:
        settings = self.run.config.evaluation.during_training
        if not settings.behaviours:
            return None
        target = self.stacks[1]
        probes = []
        with self.run.session.stage("native strengths"):
            for behaviour in self.carried:
                if behaviour.name in settings.behaviours:
                    states, chosen = self.states[behaviour.contrast], self.run.chosen(behaviour)
                    layer = chosen.choice.layer
                    native = torch.nn.functional.normalize(target.part(states.target_vector, layer), dim=0)
                    probes.append(
                        TrackedBehaviour(
                            behaviour,
                            chosen.model,
                            states.source_vector,
                            native,
                            chosen.choice.strength,
                            target.columns(layer),
                        )
                    )
        evaluation = self.run.config.evaluation
        return SteeringEvalCallback(
            probes,
            settings.every,
            settings.items,
            evaluation.temperature,
            evaluation.max_rows,
        )

    def _trainer(self, fit: FitSpec, history: FitHistory, probe: SteeringEvalCallback | None) -> L.Trainer:
        folder = self.folder / "checkpoints"
        callbacks: list[L.Callback] = [
            history,
            RelocatableCheckpoint(folder, monitor="val/fvu", filename="best", enable_version_counter=False),
        ]
        if (stopper := early_stopping(fit)) is not None:
            callbacks.append(stopper)
        if probe is not None:
            callbacks.append(probe)
        callbacks += resuming(folder / "last.ckpt")
        return L.Trainer(
            **{
                "logger": self.run.session.loggers_of(self.name if self.parts else ""),
                "callbacks": callbacks,
                "default_root_dir": self.run.config.paths.logs,
                "enable_model_summary": False,
                "plugins": [DurableCheckpoints()],
                # the stream deals its batches out to the processes itself
                "use_distributed_sampler": False,
                **fit.trainer_options(),
                **self.run.config.trainer,
            }
        )

    def _card(
        self,
        affine: AffineMap,
        history: FitHistory,
        probe: SteeringEvalCallback | None,
        steps: int,
        mean_cosine: float,  # between mapped and recorded test rows
    ) -> dict[str, Any]:
        moments, reference_ridge = self.moments, self.reference_ridge
        test = moments["test"]
        fvu, optimum = test.fvu_of(affine), test.fvu_of(reference_ridge.map)
        left_out = self.in_order.rows_excluded["train"]
        return {
            "fingerprint": self.fingerprint,
            "pair": self.run.config.pair.name,
            "models": self.run.identities,
            "layers": {
                side: list(stack.layers)
                for side, stack in zip(("source", "target"), self.stacks, strict=True)
            },
            "pool": self.run.config.pool,
            "parts": list(self.parts),
            "prompts": self._prompts,
            "store": self.run.store_fingerprint,
            "filter": {
                **asdict(self.run.config.filter),
                "token_ids": list(self.run.config.filter.token_ids),
            },
            "map": asdict(self.run.config.map),
            "fit": asdict(self.run.config.fit),
            "steps": steps,
            "rows": self.in_order.rows["train"],
            "rows_excluded": sum(left_out.values()),
            "rows_excluded_by": left_out,
            "metrics": {
                "fvu": fvu,
                "r2": 1 - fvu,
                "cosine": mean_cosine,
                "optimum_fvu": optimum,
                "excess_over_optimum": excess(fvu, optimum),
                "ridge_weight": reference_ridge.weight,
                **self._cross_validated(),
                "fvu_validation": moments["validation"].fvu_of(affine),
                "fvu_tokens": self.token_moments["kept"].fvu_of(affine),
                "fvu_unfiltered": self.token_moments["unfiltered"].fvu_of(affine),
                **self._along_vectors(affine),
            },
            "training": {
                "train": history.train,
                "val": history.val,
                "optimum": reference_ridge.fvu_validation,
                "steering_evaluations": probe.history() if probe else [],
            },
            "seconds": dict(self.run.session.seconds),
            "versions": provenance()["versions"],
        }

    def _cross_validated(self) -> dict[str, float | None]:
        """What generalised cross-validation would have chosen, and its FVU: a diagnostic of how far
        neighbouring rows are from independent."""
        train, bias = self.train_moments, self.run.config.map.bias
        weights = self.reference_ridge.weights[self.reference_ridge.weights > 0]
        try:
            weight = float(weights[int(gcv_curve(train, weights, bias=bias).argmin())])
        except ValueError:  # as many degrees of freedom as rows
            return {"gcv_weight": None, "gcv_fvu": None}
        fvu = self.moments["test"].fvu_of(ridge_at(train, weight, bias=bias))
        return {"gcv_weight": weight, "gcv_fvu": fvu}

    def _cosines(self, affine: AffineMap) -> dict[str, float]:
        """Cosine of the carried vector with the native one, by label."""
        stack = self.stacks[1]
        return {
            label: cosine(
                stack.part(affine.directions(states.source_vector), layer),
                stack.part(states.target_vector, layer),
            )
            for label, states, layer in self._at_target_layers()
        }

    def _save_vectors(self, affine: AffineMap, known: Mapping[str, str] = MappingProxyType({})) -> None:
        """The source's, native and transferred vectors of every contrast, to be used elsewhere; but for those
        that are `known` by the same prompts."""
        for name, digest in self._prompts.items():
            if known.get(name) == digest:
                continue
            states = self.states[name]

            def own(side: Side, stacked: Tensor) -> list[SteeringVector]:
                stack = self.stacks[side == "target"]
                model = self.run.target if side == "target" else self.run.source
                return [
                    SteeringVector(
                        stack.part(stacked, layer),
                        layer,
                        model.spec.name,
                        self.run.median_norms[f"{side}.{layer}"],
                        name,  # noqa: B023 (called within the loop)
                        prompts=digest,  # noqa: B023
                    )
                    for layer in stack.layers
                ]

            source, native = own("source", states.source_vector), own("target", states.target_vector)
            carried = transfer(
                source,
                affine,
                model=self.run.target.spec.name,
                residual_norms={vector.layer: vector.residual_norm for vector in native},
                fingerprint=self.fingerprint,
            )
            for role, vectors in (("source", source), ("native", native), ("transferred", carried)):
                for vector in vectors:
                    vector.save(self.folder / "vectors" / name / role / f"layer-{vector.layer}")

    # -- what it is put to the test with ---------------------------------------------------------

    @cached_property
    def maps(self) -> TransferMaps:
        """The map under test and those of its nulls and intervals, all in closed form but the first."""
        affine, _ = self.fitted_map()
        evaluation, folds = self.run.config.evaluation, self.folds
        generator = torch.Generator().manual_seed(self.run.config.seed)
        resampled = []
        for _ in range(evaluation.resampled_draws):
            drawn = torch.randint(len(folds), (len(folds),), generator=generator).tolist()
            resampled.append(self._again(merged([folds[i] for i in drawn])))
        shuffled = [self._again(moments) for moments in self.shuffled]
        untrained = self._untrained_map() if evaluation.untrained_source else None
        return TransferMaps(affine, shuffled, resampled, untrained)

    @cached_property
    def directional(self) -> DirectionalRidge:
        """Ridge with a weight for each direction of the target."""
        with self.run.session.working("a ridge weight for each direction"):
            return ridge_per_direction(
                self.train_moments,
                self.moments["validation"],
                self.reference_ridge.weight,
                bias=self.run.config.map.bias,
            )

    def _again(self, moments: Moments) -> AffineMap:
        """Other rows, solved with the weights of the map under test; in closed form where it was trained."""
        bias = self.run.config.map.bias
        if self._each_direction:
            return ridge_along(moments, self.directional.basis, self.directional.weights, bias=bias)
        return ridge_at(moments, self.reference_ridge.weight, bias=bias)

    @property
    def _each_direction(self) -> bool:
        fit = self.run.config.fit
        return isinstance(fit, ClosedFormSpec) and fit.solver == "ridge_per_direction"

    def _untrained_map(self) -> AffineMap:
        run = self.run
        name = fingerprint({**self.facts, "source": run.untrained_identity})

        def gather() -> dict[str, Moments]:
            moments = self._no_rows()
            pairs = pairs_with_other_source(run.store, "train", run.untrained, self.selection)
            with run.session.progress("the untrained source", self.data.rows["train"]) as advance:
                for batch in pairs:
                    moments.update(batch["source"], batch["target"])
                    advance(len(batch["source"]))
            return {"train": moments}

        moments = cached_moments(run.artifacts / "moments" / name, gather)["train"]
        # An untrained source has its own scale: the same share of its mean eigenvalue.
        ours, theirs = (float(m.scatter_xx.trace()) for m in (self.train_moments, moments))
        if self._each_direction:
            weights = self.directional.weights * (theirs / ours)
            return ridge_along(moments, self.directional.basis, weights, bias=run.config.map.bias)
        weight = max(self.reference_ridge.weight / ours, 1e-9) * theirs
        return ridge_at(moments, weight, bias=run.config.map.bias)


def excess(fvu: float, optimum: float) -> float:
    """How far a fit's FVU is above the optimum's, as a share of it; both perfect is none."""
    return 0.0 if fvu <= PERFECT else fvu / max(optimum, PERFECT) - 1


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two `[d]` vectors."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
