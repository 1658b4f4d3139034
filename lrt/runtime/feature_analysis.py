"""Sparse autoencoders of both models: their geometry, and features that steer (paper 2.2 and 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
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
from lrt.evaluation import Behaviour, Cell, measure
from lrt.evaluation.statistics import Array, null_share, ratio_estimate
from lrt.features import (
    SaeModule,
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
from lrt.mapping import Stack, ridge_path
from lrt.runtime.fingerprints import fingerprint
from lrt.runtime.rows import Rows
from lrt.runtime.vectors import Vectors

NULL_DRAWS = 5
log = logging.getLogger(__name__)


class FeatureAnalysis:
    """Autoencoders at the deepest layer of the map in each model, trained on single tokens or found."""

    def __init__(self, run: Vectors) -> None:
        self.run, self.settings = run, run.config.analysis.sae

    @cached_property
    def layers(self) -> dict[Side, int]:
        """The autoencoders' layers."""
        source, target = self.run.stacks
        return {"source": source.layers[-1], "target": target.layers[-1]}

    def check(self) -> None:
        """Raises ValueError or OSError for files that cannot be read or are of another width or layer."""
        for side in SIDES:
            if getattr(self.settings, side) is not None:
                self._published(side)

    def _published(self, side: Side) -> SparseAutoencoder:
        width = self.run.stacks[side == "target"].width
        path = Path(getattr(self.settings, side))
        sae = load_published(path)
        if sae.layer is None:  # not every file says; who names it for this layer has said it
            sae = load_published(path, self.layers[side])
        check_fits(sae, width, self.layers[side])
        return sae

    @cached_property
    def rows(self) -> Rows:
        """Single tokens at the autoencoders' two layers."""
        source, target = (
            Stack((self.layers[side],), stack.width)
            for side, stack in zip(SIDES, self.run.stacks, strict=True)
        )
        return Rows(self.run, (), (source, target), span=1)

    def results(self) -> dict[str, Any]:
        """The autoencoders' scores, their decoders' geometry beside its nulls, and steering by features."""
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
        tokens = ((b["source"], b["target"]) for b in self._some("train"))
        try:
            score = compare_decoders(source, target, tokens, least=self.settings.least_correlation)
        except ValueError as error:  # too few features have a partner: a finding, and no reason to stop
            log.warning("decoder geometry: %s", error)
            return {"note": str(error)}
        named = {name: asdict(getattr(score, name)) for name in ("matched", "random", "shuffled")}
        return {"pairs": len(score.matching), **named}

    def _some(self, split: Split) -> Iterator[dict[str, Tensor]]:
        """Batches of about the tokens that the settings ask for."""
        batches = self.rows.data.iterate(split, batch_rows=8192)
        return islice(batches, max(1, self.settings.tokens // 8192))

    # -- autoencoders --------------------------------------------------------------------------

    def _autoencoder(self, side: Side) -> SparseAutoencoder:
        if getattr(self.settings, side) is not None:
            return self._published(side)
        run, spec = self.run, self.settings.spec()
        name = fingerprint(
            {**self.rows.rows_facts, "side": side, "sae": asdict(self.settings), "seed": run.config.seed}
        )
        folder = run.artifacts / "saes" / name
        if not (folder / "sae.json").is_file():
            module = SaeModule.from_moments(
                spec, self.rows.train_moments, side, layer=self.layers[side], seed=run.config.seed
            )
            batches = max(1, self.settings.tokens // run.config.batches.rows)
            trainer = L.Trainer(
                **{
                    **run.config.trainer,
                    "logger": run.session.loggers_of(f"sae-{side}"),
                    "default_root_dir": run.config.paths.logs,
                    "enable_checkpointing": False,
                    "enable_model_summary": False,
                    "use_distributed_sampler": False,
                    "max_epochs": self.settings.epochs,
                    "limit_train_batches": batches,
                    "num_sanity_val_steps": 0,
                    "limit_val_batches": 0,
                }
            )
            trainer.fit(module, train_dataloaders=self.rows.data.train_dataloader())
            card = {"model": getattr(run, side).spec.name, "layer": self.layers[side], "sae": asdict(spec)}
            if trainer.is_global_zero:
                save_autoencoder(folder, module.autoencoder(), card)
            trainer.strategy.barrier("autoencoder written")
        sae, _ = load_autoencoder(folder, mend=f"delete the folder {folder} and run the command again")
        return sae

    # -- steering by features --------------------------------------------------------------------

    def _steering(self, sae: SparseAutoencoder) -> list[dict[str, Any]]:
        run = self.run
        wanted = [b for b in run.suite if b.name in self.settings.behaviours]
        if not wanted:
            return []
        # every target layer that a behaviour may be steered at
        rows = Rows(run, (), (self.rows.stacks[0], run.stacks[1]), span=1)
        some = islice(rows.data.iterate("train", batch_rows=8192), max(1, self.settings.tokens // 8192))
        s2l = fit_s2l(
            feature_moments(sae, some), feature_moments(sae, rows.data.iterate("validation", batch_rows=8192))
        ).map
        l2l = ridge_path(rows.train_moments, rows.moments["validation"]).map
        found = []
        for behaviour in wanted:
            states = run.states_at(rows.stacks)[behaviour.contrast]
            telling = behaviour_features(sae, *states.source, top=self.settings.top)
            coefficients = telling.coefficients
            generator = torch.Generator().manual_seed(run.config.seed)
            images = {
                "s2l": [feature_direction(s2l, coefficients)],
                "l2l_features": [decoded_direction(l2l, sae, coefficients)],
                "l2l": [l2l.directions(states.source_vector)],
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
                    **self._measured(behaviour, images, states.target_vector),
                }
            )
        return found

    def _measured(
        self, behaviour: Behaviour, images: dict[str, list[Tensor]], native: Tensor
    ) -> dict[str, Any]:
        """Scores under each direction at the block and strength chosen for the native vector."""
        run, chosen, stack = self.run, self.run.chosen(behaviour), self.run.stacks[1]
        layer, strength = chosen.choice.layer, chosen.choice.strength
        cells = [Cell("none", 0.0, torch.zeros(run.target.width))]
        for name, directions in {"native": [native], **images}.items():
            for draw, image in enumerate(directions):
                unit = torch.nn.functional.normalize(stack.part(image.float(), layer), dim=0)
                cells += chosen.model.cells(name, unit, [strength], behaviour.direction, draw)
        evaluation = run.config.evaluation
        items = behaviour.items_of(evaluation.items)
        with run.session.progress(f"{behaviour.name}, by features", len(cells) * len(items)) as advance:
            measured = measure(
                run.target,
                layer,
                behaviour,
                evaluation.items,
                items,
                cells,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
            )

        def scores(condition: str, draw: int = 0) -> Array:
            return np.array([m.value for m in measured if m.condition == condition and m.draw == draw])

        none = scores("none")
        moved = scores("native") - none
        told: dict[str, Any] = {}
        for name in ("s2l", "l2l_features", "l2l"):
            ratio = ratio_estimate(scores(name) - none, moved, run.config.seed)
            told[name] = {
                "mean": float(scores(name).mean()),
                "ratio": ratio.value if ratio else None,
                "ratio_ci": ratio.to_list() if ratio else None,
            }
        changes = np.array([(scores("other_features", d) - none).mean() for d in range(NULL_DRAWS)])
        return {
            "layer": layer,
            "strength": strength,
            "unsteered": float(none.mean()),
            "native": float(scores("native").mean()),
            **told,
            "other_features": null_share(changes, float(moved.mean())),
        }
