"""The middle stages: the optimum, the steering vectors of both models, and the trained map."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrt.activations.manifest import Side
from lrt.durable import write_durably
from lrt.evaluation import (
    Behaviour,
    Chosen,
    ContrastStates,
    Probe,
    SteerableModel,
    SteeringProbe,
    choose_layer,
)
from lrt.mapping import (
    AffineMap,
    FitHistory,
    MapForeign,
    MapModule,
    early_stopping,
    load_map,
    ridge_path,
    save_map,
)
from lrt.models import (
    LanguageModel,
    ModelSpec,
    identity,
    load,
)
from lrt.runtime.fingerprints import fingerprint
from lrt.runtime.provenance import provenance
from lrt.runtime.recorded import Recorded, cache_read
from lrt.steering import SteeringVector, last_token_states, prompts_digest, transfer

log = logging.getLogger(__name__)

# settings of the Trainer that leave a map as it is
NOT_IN_THE_MAP = ("accelerator", "enable_progress_bar", "log_every_n_steps", "enable_model_summary")


class Fitted(Recorded):
    """Adds to the recorded states what is found on them: vectors, and the map Lightning trains."""

    # -- steering vectors ----------------------------------------------------------------------

    @cached_property
    def contrasts(self) -> dict[str, Behaviour]:
        """One behaviour for each contrastive set, by the contrast's name."""
        return {behaviour.contrast: behaviour for behaviour in reversed(self.suite)}

    @cached_property
    def states(self) -> dict[str, ContrastStates]:
        """Last-token states of every contrastive set, in both models and the untrained source."""
        roles = ["source", "target"] + ["untrained"] * self.config.evaluation.untrained_source
        found = {}
        with (
            self.session.stage("steering vectors"),
            self.session.progress("steering vectors", len(self.contrasts) * len(roles)) as advance,
        ):
            for name, behaviour in sorted(self.contrasts.items()):
                states = []
                for role in roles:
                    states.append(self._states(behaviour, role))
                    advance(1)
                found[name] = ContrastStates(*states)
        return found

    def _states(self, behaviour: Behaviour, role: str) -> tuple[Tensor, Tensor]:
        layers = self.stacks[role == "target"].layers
        name = fingerprint(
            {
                "model": self.untrained_identity if role == "untrained" else self.identities[role],
                "tokenizer": self.identities["tokenizer"],
                "layers": layers,
                "prompts": prompts_digest(behaviour.positives, behaviour.negatives),
            }
        )
        file = self.artifacts / "states" / f"{name}.safetensors"
        if not file.is_file():
            model = {"source": lambda: self.source, "target": lambda: self.target}.get(
                role, lambda: self.untrained
            )()
            found = {
                "positive": last_token_states(model, behaviour.positives, layers),
                "negative": last_token_states(model, behaviour.negatives, layers),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, lambda temporary: save_file(found, temporary))
        with cache_read(file):
            tensors = load_file(file)
            return tensors["positive"], tensors["negative"]

    @cached_property
    def untrained_spec(self) -> ModelSpec:
        """The source's architecture with random weights: the untrained control."""
        spec = self.config.pair.source
        return ModelSpec(spec.path, spec.revision, spec.dtype, spec.device, "random", self.config.seed)

    @cached_property
    def untrained_identity(self) -> dict[str, Any]:
        """What determines the untrained source."""
        return identity(self.untrained_spec)

    @cached_property
    def untrained(self) -> LanguageModel:
        """The untrained source."""
        return load(self.untrained_spec)

    def steerable(self, side: Side, layer: int) -> SteerableModel:
        """A model at one of its layers with its strength unit there."""
        model = self.target if side == "target" else self.source
        return SteerableModel(model, layer, self.store.median_norm(side, layer))

    def chosen(self, behaviour: Behaviour, side: Side = "target") -> Chosen:
        """Layer and strength for a behaviour, by what a model's own vector does on development items."""
        if (behaviour.name, side) not in self._chosen:
            stack = self.stacks[side == "target"]
            states = self.states[behaviour.contrast]
            own = states.target_vector if side == "target" else states.source_vector
            evaluation = self.config.evaluation
            grid, tried = evaluation.grid, behaviour
            if side == "source":  # whose own curve is an illustration: its block is found more cheaply
                grid = replace(grid, strengths=tuple(s for s in grid.strengths if s >= 0))
                tried = replace(behaviour, damage_texts=behaviour.damage_texts[:16])
            rows = len(behaviour.development) * len(grid.strengths) * len(stack.layers)
            with self.session.progress(f"{behaviour.name}, the {side}'s own vector", rows) as advance:
                self._chosen[behaviour.name, side] = choose_layer(
                    tried,
                    [(self.steerable(side, layer), stack.part(own, layer)) for layer in stack.layers],
                    grid,
                    temperature=evaluation.temperature,
                    max_rows=evaluation.max_rows,
                    progress=advance,
                )
        return self._chosen[behaviour.name, side]

    @cached_property
    def _chosen(self) -> dict[tuple[str, Side], Chosen]:
        return {}

    # -- the fit -------------------------------------------------------------------------------

    @cached_property
    def map_fingerprint(self) -> str:
        """Of the fitted map."""
        config = self.config
        return fingerprint(
            {
                **self.rows_facts,
                "map": config.map,
                "fit": config.fit,
                "batches": asdict(config.batches) | {"workers": None},
                "seed": config.seed,
                "trainer": {k: v for k, v in config.trainer.items() if k not in NOT_IN_THE_MAP},
            }
        )

    @property
    def map_folder(self) -> Path:
        """Where the map is, or will be."""
        return self.artifacts / "maps" / self.map_fingerprint

    def fitted_map(self) -> tuple[AffineMap, dict[str, Any]]:
        """The map and its card. Raises MapMissing saying which `train.py` line makes it."""
        folder = self.map_folder
        again = f"make it with: {self.train_command()}"
        if (folder / "mapping.json").is_file():
            again = f"delete the folder {folder} and {again}"
        affine, card = load_map(folder, mend=again)
        if card.get("fingerprint") != self.map_fingerprint:
            raise MapForeign(f"{folder} holds the map of other settings. {again}")
        return affine, card

    def train_command(self) -> str:
        """The `train.py` line of this config."""
        given = self.session.resolved.get("overrides", [])
        return f"python train.py {shlex.join(given)}".rstrip()

    def fit(self) -> tuple[AffineMap, dict[str, Any]]:
        """Trains the map with Lightning, resuming where a run was cut off, or finds it."""
        if (self.map_folder / "mapping.json").is_file():
            with self.session.stage("fit"):
                return self.fitted_map()
        module = self._module()
        history, probe = FitHistory(), self._probe()
        with self.session.stage("fit"):
            trainer = self._trainer(history, probe)
            checkpoints = self.map_folder / "checkpoints"
            last = checkpoints / "last.ckpt"
            trainer.fit(module, datamodule=self.data, ckpt_path=last if last.is_file() else None)
            best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
            if best and Path(best).is_file():
                module = MapModule.load_from_checkpoint(best, weights_only=True)
            steps = trainer.global_step
            (scores,) = trainer.test(module, datamodule=self.data, verbose=False)
            affine = module.affine().to("cpu")
        card = self._card(affine, history, probe, steps, scores["test/cosine"])
        if trainer.is_global_zero:
            self._save_vectors(affine)
            save_map(self.map_folder, affine, card)  # last: a folder with its card is whole
        trainer.strategy.barrier("map written")
        return self.fitted_map()

    def _module(self) -> MapModule:
        yardstick = self.yardstick
        test = self.moments["test"].fvu_of(yardstick.map)
        return MapModule.from_moments(
            self.config.map,
            self.config.fit,
            self.train_moments,
            yardstick=yardstick,
            optimum={"val": yardstick.fvu_validation, "test": test},
            vectors=self._native_vectors,
            seed=self.config.seed,
        )

    def _at_target_layers(self) -> Iterator[tuple[str, ContrastStates, int]]:
        """Every contrast at every target layer: its label (`name`, of several layers `name@layer`), its
        states and the layer."""
        layers = self.stacks[1].layers
        for name, states in self.states.items():
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

    def _probe(self) -> SteeringProbe | None:
        settings = self.config.evaluation.probe
        if not settings.behaviours:
            return None
        target = self.stacks[1]
        probes = []
        with self.session.stage("native strengths"):
            for behaviour in self.suite:
                if behaviour.name in settings.behaviours:
                    states, chosen = self.states[behaviour.contrast], self.chosen(behaviour)
                    layer = chosen.choice.layer
                    native = torch.nn.functional.normalize(target.part(states.target_vector, layer), dim=0)
                    probes.append(
                        Probe(
                            behaviour,
                            chosen.model,
                            states.source_vector,
                            native,
                            chosen.choice.strength,
                            target.columns(layer),
                        )
                    )
        evaluation = self.config.evaluation
        return SteeringProbe(
            probes,
            settings.every,
            settings.items,
            evaluation.temperature,
            evaluation.max_rows,
        )

    def _trainer(self, history: FitHistory, probe: SteeringProbe | None) -> L.Trainer:
        fit, folder = self.config.fit, self.map_folder / "checkpoints"
        callbacks: list[L.Callback] = [
            history,
            ModelCheckpoint(folder, monitor="val/fvu", filename="best", enable_version_counter=False),
            # one of its own: `save_last` of the above leaves out the epochs that are not the best
            ModelCheckpoint(folder, filename="last", enable_version_counter=False),
        ]
        if (stopper := early_stopping(fit)) is not None:
            callbacks.append(stopper)
        if probe is not None:
            callbacks.append(probe)
        return L.Trainer(
            **{
                "logger": self.session.loggers,
                "callbacks": callbacks,
                "default_root_dir": self.config.paths.logs,
                "enable_model_summary": False,
                # the stream deals its batches out to the processes itself
                "use_distributed_sampler": False,
                **fit.trainer_options(),
                **self.config.trainer,
            }
        )

    def _card(
        self,
        affine: AffineMap,
        history: FitHistory,
        probe: SteeringProbe | None,
        steps: int,
        mean_cosine: float,  # between mapped and recorded test rows
    ) -> dict[str, Any]:
        moments, yardstick = self.moments, self.yardstick
        test = moments["test"]
        fvu, optimum = test.fvu_of(affine), test.fvu_of(yardstick.map)
        left_out = self.data.rows_left_out["train"]
        return {
            "fingerprint": self.map_fingerprint,
            "pair": self.config.pair.name,
            "models": self.identities,
            "layers": {
                side: list(stack.layers)
                for side, stack in zip(("source", "target"), self.stacks, strict=True)
            },
            "span": self.config.span,
            "store": self.store_fingerprint,
            "filter": {
                **asdict(self.config.filter),
                "token_ids": list(self.config.filter.token_ids),
            },
            "map": asdict(self.config.map),
            "fit": asdict(self.config.fit),
            "steps": steps,
            "rows": self.data.rows["train"],
            "rows_left_out": sum(left_out.values()),
            "rows_left_out_by": left_out,
            "metrics": {
                "fvu": fvu,
                "r2": 1 - fvu,
                "cosine": mean_cosine,
                "optimum_fvu": optimum,
                "excess_over_optimum": fvu / optimum - 1,
                "ridge_weight": yardstick.weight,
                "fvu_validation": moments["validation"].fvu_of(affine),
                "fvu_tokens": moments["test_tokens"].fvu_of(affine),
                "fvu_unfiltered": moments["test_unfiltered"].fvu_of(affine),
                "error_along": {
                    name: test.error_along(affine, vector) for name, vector in self._native_vectors.items()
                },
                "cosine_with_native": self._cosines(affine),
                "optimum_by_layer": self._optimum_by_layer(),
            },
            "training": {
                "train": history.train,
                "val": history.val,
                "optimum": yardstick.fvu_validation,
                "probes": probe.history() if probe else [],
            },
            "seconds": dict(self.session.seconds),
            "versions": provenance()["versions"],
        }

    def _optimum_by_layer(self) -> list[dict[str, Any]]:
        """Test FVU of the ridge map to each target layer from each source layer alone, and from all:
        what the source's other depths add (the paper's appendix A)."""
        source, target = self.stacks
        train, validation, test = self.train_moments, self.moments["validation"], self.moments["test"]
        found = []
        for to in target.layers:
            of: dict[int | str, slice] = {layer: source.columns(layer) for layer in source.layers}
            if len(source.layers) > 1:
                of["all"] = slice(None)
            for layer, columns in of.items():
                part = (columns, target.columns(to))
                best = ridge_path(train.part(*part), validation.part(*part), bias=self.config.map.bias)
                found.append({"source": layer, "target": to, "fvu": test.part(*part).fvu_of(best.map)})
        return found

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

    def _save_vectors(self, affine: AffineMap) -> None:
        """The source's, native and transferred vectors of every contrast, to be used elsewhere."""
        for name, states in self.states.items():
            behaviour = self.contrasts[name]
            digest = prompts_digest(behaviour.positives, behaviour.negatives)

            def own(side: Side, stacked: Tensor) -> list[SteeringVector]:
                stack = self.stacks[side == "target"]
                places = [self.steerable(side, layer) for layer in stack.layers]
                return [
                    SteeringVector(
                        stack.part(stacked, at.layer),
                        at.layer,
                        at.lm.spec.name,
                        at.residual_norm,
                        name,  # noqa: B023 (called within the loop)
                        prompts=digest,  # noqa: B023
                    )
                    for at in places
                ]

            source, native = own("source", states.source_vector), own("target", states.target_vector)
            carried = transfer(
                source,
                affine,
                model=self.target.spec.name,
                residual_norms={vector.layer: vector.residual_norm for vector in native},
                fingerprint=self.map_fingerprint,
            )
            for role, vectors in (("source", source), ("native", native), ("transferred", carried)):
                for vector in vectors:
                    vector.save(self.map_folder / "vectors" / name / role / f"layer-{vector.layer}")


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two `[d]` vectors."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
