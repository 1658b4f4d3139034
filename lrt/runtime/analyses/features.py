"""Sparse autoencoders of both models: their geometry, and features that steer (paper 2.2 and 3.2)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lrt.activations.manifest import SIDES, Side
from lrt.corpora import Split
from lrt.evaluation import Behaviour
from lrt.evaluation.statistics import null_share, ratio_estimate
from lrt.evaluation.storybook import NAMES as STORYBOOK_BEHAVIOURS
from lrt.features import (
    EncodedRows,
    SaeModule,
    SaeSpec,
    SparseAutoencoder,
    behaviour_features,
    check_fits,
    compare_decoders,
    decoded_direction,
    feature_direction,
    feature_moments,
    fit_s2l,
    load_autoencoder,
    load_published,
    save_autoencoder,
    score_autoencoder,
)
from lrt.mapping import (
    AffineMap,
    FitSpec,
    LayerConcat,
    MapModule,
    MapSpec,
    Moments,
    RidgeFit,
    ridge_path,
    solving_bytes,
    stack_bytes,
)
from lrt.runtime.analyses.analysis import Analysis
from lrt.runtime.map_fit import NOT_IN_THE_MAP
from lrt.runtime.rows import AT_ONCE, Rows
from lrt.runtime.schema import ConfigError, Sae
from lrt.runtime.vectors import Vectors
from lrt.storage.checkpoints import DurableCheckpoints, resuming
from lrt.storage.durable import one_writer, sweep
from lrt.storage.fingerprint import file_digests, fingerprint

NULL_DRAWS = 5
log = logging.getLogger(__name__)

Batches = Iterator[Mapping[str, Tensor]]


class Features(Analysis):
    """Autoencoders at the deepest layer of the map in each model, trained on single tokens or found."""

    name = "sae"
    version = 4

    @property
    def own(self) -> Sae:
        """Its settings."""
        return self.settings.sae

    @property
    def asked(self) -> bool:
        return self.own.wanted

    @cached_property
    def layers(self) -> dict[Side, int]:
        """The autoencoders' layers."""
        source, target = self.run.stacks
        return {"source": source.layers[-1], "target": target.layers[-1]}

    @property
    def memory(self) -> int:
        """Of features with target states, twice; of co-activations; and of a ridge fit from features."""
        of = {
            side: self._published[side].features if side in self._published else self.own.features
            for side in SIDES
        }
        features, target = LayerConcat((0,), of["source"]), self.run.stacks[1]
        pairs = 2 * 8 * of["source"] * of["target"]
        return stack_bytes(features, target, 2) + solving_bytes(features, target) + pairs

    def check(self) -> None:
        """Raises ValueError or OSError for files that cannot be read or are of another width or layer, and
        for behaviours that are not in the suite."""
        check_behaviours(self.run)
        self._published  # noqa: B018
        if self.own.s2l == "trained" and not isinstance(self.run.config.fit, FitSpec):
            raise ConfigError(
                "analysis.sae.s2l=trained needs a fit by gradient steps, and fit=closed_form solves: take "
                "fit=adamw or fit=sgd, or set analysis.sae.s2l=solved"
            )

    @cached_property
    def _published(self) -> dict[Side, SparseAutoencoder]:
        """Those that the config names. Raises ValueError for one of another width or layer."""
        found: dict[Side, SparseAutoencoder] = {}
        for side, stack in zip(SIDES, self.run.stacks, strict=True):
            if (path := getattr(self.own, side)) is not None:
                found[side] = load_for(Path(path), stack.width, self.layers[side])
        return found

    @cached_property
    def rows(self) -> Rows:
        """Single tokens at the autoencoders' two layers."""
        source, target = (
            LayerConcat((self.layers[side],), stack.width)
            for side, stack in zip(SIDES, self.run.stacks, strict=True)
        )
        return Rows(self.run, (), (source, target), tokens=True, folds=1)

    def facts(self) -> Mapping[str, Any]:
        config = self.run.config
        return {
            "autoencoders": {side: self._identity(side) for side in SIDES},
            "rows": self.rows.facts,
            "target_layers": self.run.stacks[1].layers,
            "tokens": self.own.tokens,
            "least_correlation": self.own.least_correlation,
            "top": self.own.top,
            **self._how_s2l,
            # where and how strongly each is steered follows from these
            "behaviours": {
                b.name: {
                    "data": fingerprint(replace(b, extra_scorers=()).to_data()),
                    "chosen": self.run.chosen_facts(b, "target"),
                }
                for b in self._steered
            },
            "items": config.evaluation.eval_split,
            "seed": config.seed,
        }

    @property
    def _how_s2l(self) -> dict[str, Any]:
        """What determines a trained map from features."""
        config = self.run.config
        if self.own.s2l == "solved":
            return {"s2l": "solved"}
        return {
            "s2l": {
                "fit": asdict(config.fit),
                "bias": config.map.bias,
                "batches": asdict(config.batches) | {"workers": None},
                "trainer": {k: v for k, v in config.trainer.items() if k not in NOT_IN_THE_MAP},
            }
        }

    @property
    def _steered(self) -> list[Behaviour]:
        return [b for b in self.run.suite if b.name in self.own.behaviours]

    def _identity(self, side: Side) -> Any:
        path = getattr(self.own, side)
        return self._fingerprint(side) if path is None else file_digests((path,))

    def make(self) -> dict[str, Any]:
        with self.run.session.stage("sparse autoencoders"):
            pair = {side: self._autoencoder(side) for side in SIDES}
            found: dict[str, Any] = {
                side: {
                    "layer": self.layers[side],
                    **sae.describe(),
                    **asdict(score_autoencoder(sae, (b[side] for b in self.rows.data.iterate("test")))),
                }
                for side, sae in pair.items()
            }
            found["geometry"] = self._geometry(pair["source"], pair["target"])
            found["steering"] = self._steering(pair["source"])
        return found

    def _geometry(self, source: SparseAutoencoder, target: SparseAutoencoder) -> dict[str, Any]:
        tokens = ((b["source"], b["target"]) for b in self._some(self.rows, "train"))
        try:
            score = compare_decoders(source, target, tokens, least=self.own.least_correlation)
        except ValueError as error:  # too few features have a partner: a finding, and no reason to stop
            log.warning("decoder geometry: %s", error)
            return {"note": str(error)}
        named = {
            name: asdict(value) if (value := getattr(score, name)) is not None else None
            for name in ("matched", "random", "shuffled")
        }
        return {"pairs": len(score.matching), "random_pairs": score.random_pairs, **named}

    def _some(self, rows: Rows, split: Split) -> Batches:
        """Batches of about the tokens that the settings ask for."""
        return islice(rows.data.iterate(split, batch_rows=AT_ONCE), max(1, self.own.tokens // AT_ONCE))

    # -- autoencoders --------------------------------------------------------------------------

    def _fingerprint(self, side: Side) -> str:
        """Of a trained autoencoder."""
        config = self.run.config
        return fingerprint(
            {
                "rows": self.rows.facts,
                "side": side,
                "sae": self.own.spec(),
                "tokens": self.own.tokens,
                "epochs": self.own.epochs,
                "batches": asdict(config.batches) | {"workers": None},
                "trainer": {k: v for k, v in config.trainer.items() if k not in NOT_IN_THE_MAP},
                "seed": config.seed,
            }
        )

    def _autoencoder(self, side: Side) -> SparseAutoencoder:
        if side in self._published:
            return self._published[side]
        run, spec = self.run, self.own.spec()
        folder = run.artifacts / "saes" / self._fingerprint(side)
        if not (folder / "sae.json").is_file():
            with one_writer(folder, "training the autoencoder in", ConfigError, ConfigError):
                module = self._trained(spec, side, folder / "checkpoints" / "last.ckpt")
                name = getattr(run, side).spec.name
                card = {"model": name, "layer": self.layers[side], "sae": asdict(spec)}
                save_autoencoder(folder, module.autoencoder(), card)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        sae, _ = load_autoencoder(folder, fix_hint=f"delete the folder {folder} and run the command again")
        return sae

    def _trained(self, spec: SaeSpec, side: Side, last: Path) -> SaeModule:
        """A module trained on one side's states, from the checkpoint `last` on where there is one."""
        module = SaeModule.from_moments(
            spec, self.rows.train_moments, side, layer=self.layers[side], seed=self.run.config.seed
        )
        loader = self.rows.data.train_dataloader()
        self._trainer(f"sae-{side}", last, self.own.epochs).fit(
            module, train_dataloaders=loader, ckpt_path=last if last.is_file() else None
        )
        return module

    def _trainer(
        self, name: str, last: Path, epochs: int, options: Mapping[str, Any] | None = None
    ) -> L.Trainer:
        """Of training rows alone, that keeps its place in the checkpoint `last`."""
        run = self.run
        if last.parent.is_dir():
            sweep(last.parent)
        return L.Trainer(
            **{
                **(options or {}),
                **run.config.trainer,
                # by one process: those of a distributed fit have ended where it has
                "devices": 1,
                "num_nodes": 1,
                "strategy": "auto",
                "logger": run.session.loggers_of(name),
                "callbacks": resuming(last),
                "plugins": [DurableCheckpoints()],
                "default_root_dir": run.config.paths.logs,
                "enable_model_summary": False,
                "enable_checkpointing": True,
                "use_distributed_sampler": False,
                "max_epochs": epochs,
                "max_steps": -1,
                "check_val_every_n_epoch": 1,
                "val_check_interval": None,
                "limit_train_batches": max(1, self.own.tokens // run.config.batches.rows),
                "num_sanity_val_steps": 0,
                "limit_val_batches": 0,
            }
        )

    # -- steering by features --------------------------------------------------------------------

    def _steering(self, sae: SparseAutoencoder) -> list[dict[str, Any]]:
        run = self.run
        if not self._steered:
            return []
        # every target layer that a behaviour may be steered at
        rows = Rows(run, (), (self.rows.stacks[0], run.stacks[1]), tokens=True, folds=1)
        # both maps see the same rows
        train, held_out = (
            _moments(rows, sae, batches)
            for batches in (
                self._some(rows, "train"),
                rows.data.iterate("validation", batch_rows=AT_ONCE),
            )
        )
        optimum = fit_s2l(train["features"], held_out["features"])
        s2l = (
            optimum.map
            if self.own.s2l == "solved"
            else self._trained_s2l(rows, sae, train["features"], optimum)
        )
        fit = {
            "fvu": held_out["features"].fvu_of(s2l),
            "optimum": optimum.fvu_validation,
            "fitted": self.own.s2l,
        }
        l2l = ridge_path(train["states"], held_out["states"], bias=run.config.map.bias).map
        found = []
        for behaviour in self._steered:
            states_of = run.states_at(rows.stacks)[behaviour.contrast]
            telling = behaviour_features(sae, *states_of.source, top=self.own.top)
            coefficients = telling.coefficients
            generator = torch.Generator().manual_seed(run.config.seed)
            images = {
                "native": [states_of.target_vector],
                "s2l": [feature_direction(s2l, coefficients)],
                "l2l_features": [decoded_direction(l2l, sae, coefficients)],
                "l2l": [l2l.directions(states_of.source_vector)],
                "other_features": [
                    feature_direction(s2l, coefficients[torch.randperm(sae.features, generator=generator)])
                    for _ in range(NULL_DRAWS)
                ],
            }
            found.append(
                {
                    "behaviour": behaviour.name,
                    "features": telling.features.tolist(),
                    "share_of_vector": telling.cosine,
                    "s2l_fit": fit,
                    **self._measured(behaviour, images),
                }
            )
        shutil.rmtree(self._s2l_folder, ignore_errors=True)
        return found

    @property
    def _s2l_folder(self) -> Path:
        """Where a map from features keeps its place until all that is measured with it is."""
        return self.run.artifacts / "saes" / f"s2l-{fingerprint(self.facts())}"

    def _trained_s2l(
        self, rows: Rows, sae: SparseAutoencoder, moments: Moments, optimum: RidgeFit
    ) -> AffineMap:
        """The map from features to target states by gradient steps, as `fit` says (paper, Table 2)."""
        run, fit = self.run, self.run.config.fit
        assert isinstance(fit, FitSpec)  # or the config would have been refused
        module = MapModule.from_moments(
            MapSpec("full", bias=run.config.map.bias),
            fit,
            moments,
            reference_ridge=optimum,
            seed=run.config.seed,
        )
        last = self._s2l_folder / "checkpoints" / "last.ckpt"
        with one_writer(self._s2l_folder, "training s2l in", ConfigError, ConfigError):
            self._trainer("s2l", last, fit.epochs, fit.trainer_options()).fit(
                module,
                datamodule=EncodedRows(rows.data, sae),
                ckpt_path=last if last.is_file() else None,
            )
        return module.affine()

    def _measured(self, behaviour: Behaviour, images: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Scores under each direction at the block and strength chosen for the native vector."""
        run, chosen, evaluation = self.run, self.run.chosen(behaviour), self.run.config.evaluation
        layer, seed = chosen.choice.layer, run.config.seed
        directions = {
            name: [run.stacks[1].part(image, layer) for image in draws] for name, draws in images.items()
        }
        scores = run.kept_scores(
            behaviour, directions, evaluation.eval_split, f"{behaviour.name}, by features"
        )
        (none,), (native,) = scores["none"], scores["native"]
        moved = native - none
        keys = [item.key for item in behaviour.items_of(evaluation.eval_split)]
        told: dict[str, Any] = {}
        for name in ("s2l", "l2l_features", "l2l"):
            (score,) = scores[name]
            ratio = ratio_estimate(score - none, moved, seed, keys)
            told[name] = {
                "mean": float(score.mean()),
                "ratio": ratio.value if ratio else None,
                "ratio_ci": ratio.to_list() if ratio else None,
            }
        changes = np.array([(score - none).mean() for score in scores["other_features"]])
        return {
            "layer": layer,
            "strength": chosen.choice.strength,
            "unsteered": float(none.mean()),
            "native": float(native.mean()),
            **told,
            "other_features": null_share(changes, float(moved.mean())),
        }


def _moments(rows: Rows, sae: SparseAutoencoder, batches: Batches) -> dict[str, Moments]:
    """Moments of the features and of the source's states, each with the target's states, in one pass."""
    source, target = rows.stacks
    states = Moments(source.total, target.total, products=rows.run.config.products)

    def passing() -> Batches:
        for batch in batches:
            states.update(batch["source"], batch["target"])
            yield batch

    return {"features": feature_moments(sae, passing(), products=states.products), "states": states}


def check_behaviours(run: Vectors) -> None:
    """Raises ConfigError for a behaviour to be steered by features that is not in the suite."""
    names = {b.name for b in run.suite}
    for name in run.config.analysis.sae.behaviours:
        # those of the lab may stay named while others are studied
        if name not in names and name not in STORYBOOK_BEHAVIOURS:
            raise ConfigError(
                f"analysis.sae.behaviours holds {name!r}, which is not in the suite: {', '.join(sorted(names))}"
            )


def check_files(run: Vectors) -> None:
    """Raises ValueError or OSError for files that cannot be read, or are of no candidate layer or of another
    width: what can be known before the layers are chosen."""
    check_behaviours(run)
    for side, stack in zip(SIDES, run.candidates, strict=True):
        if (path := getattr(run.config.analysis.sae, side)) is not None:
            said = load_published(Path(path)).layer
            if said is not None and said not in stack.layers:
                raise ConfigError(
                    f"analysis.sae.{side}={path} is of layer {said}, which is none of the candidates "
                    f"{list(stack.layers)} (recording.{side}); take one of a layer that may be chosen"
                )
            load_for(Path(path), stack.width, stack.layers[0] if said is None else said)


def load_for(path: Path, width: int, layer: int) -> SparseAutoencoder:
    """A published autoencoder of this width and layer. Raises ValueError for another."""
    sae = load_published(path)
    if sae.layer is None:  # not every file says; who names it for this layer has said it
        sae = load_published(path, layer)
    check_fits(sae, width, layer)
    return sae
