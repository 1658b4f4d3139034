"""A pair of sparse autoencoders at the map's deepest layers: published files, or trained on single tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from lrt.config import ConfigError, Sae
from lrt.corpora import Split
from lrt.features import (
    SaeModule,
    SparseAutoencoder,
    check_fits,
    load_autoencoder,
    load_published,
    save_autoencoder,
)
from lrt.mapping import LayerConcat
from lrt.models.sides import SIDES, Side
from lrt.pipeline.fit_data import MOMENTS_BATCH, FitData, RowSource
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.map_training import FitOutput, FitSettings
from lrt.pipeline.pair import ModelPair
from lrt.storage.cache import Cache, Format
from lrt.storage.checkpoints import plugins
from lrt.storage.durable import sweep
from lrt.storage.fingerprint import file_digests, fingerprint

Batches = Iterator[Mapping[str, Tensor]]


def _write(folder: Path, trained: tuple[SparseAutoencoder, dict[str, Any]]) -> None:
    save_autoencoder(folder, *trained)


AUTOENCODER: Format[tuple[SparseAutoencoder, dict[str, Any]]] = Format(
    "", _write, lambda folder: load_autoencoder(folder, fix_hint=f"delete the folder {folder}"), "sae.json"
)
"""An autoencoder and its card."""


class Autoencoders:
    """The autoencoders of both models; those that the config does not name are trained, once."""

    def __init__(
        self,
        settings: Sae,
        layers: LayerPair,
        rows: RowSource,
        pair: ModelPair,
        fit: FitSettings,
        output: FitOutput,
    ) -> None:
        self.settings, self.rows, self.pair, self.fit, self.output = settings, rows, pair, fit, output
        self.layers: dict[Side, int] = {side: layers.of(side).layers[-1] for side in SIDES}
        self._widths: dict[Side, int] = {side: layers.of(side).width for side in SIDES}

    @cached_property
    def published(self) -> dict[Side, SparseAutoencoder]:
        """Those that the config names. Raises UserError for one of another width or layer."""
        return {
            side: load_for(Path(path), self._widths[side], self.layers[side])
            for side in SIDES
            if (path := getattr(self.settings, side)) is not None
        }

    @cached_property
    def data(self) -> FitData:
        """Single tokens at the autoencoders' two layers."""
        source, target = (LayerConcat((self.layers[side],), self._widths[side]) for side in SIDES)
        return self.rows.of(LayerPair(source, target), tokens=True, every_document=True, folds=1)

    def features(self, side: Side) -> int:
        """Number of features of a side's autoencoder."""
        return self.published[side].features if side in self.published else self.settings.features

    def identity(self, side: Side) -> Any:
        """What determines a side's autoencoder."""
        path = getattr(self.settings, side)
        return fingerprint(self._facts(side)) if path is None else file_digests((path,))

    def some(self, data: FitData, split: Split) -> Batches:
        """Batches of about the tokens that the settings ask for."""
        batches = max(1, self.settings.tokens // MOMENTS_BATCH)
        return islice(data.data.iterate(split, batch_rows=MOMENTS_BATCH), batches)

    def of(self, side: Side) -> SparseAutoencoder:
        """A side's autoencoder, opened or trained."""
        if side in self.published:
            return self.published[side]
        cache: Cache = self.rows.cache
        sae, _ = cache.resumed(
            "saes", self._facts(side), lambda partial: self._train(side, partial), AUTOENCODER
        )
        return sae

    def _facts(self, side: Side) -> dict[str, Any]:
        return {
            "rows": self.data.facts,
            "side": side,
            "sae": self.settings.spec(),
            "tokens": self.settings.tokens,
            "epochs": self.settings.epochs,
            **self.fit.gradient_facts(),
            "seed": self.fit.seed,
        }

    def _train(self, side: Side, partial: Path) -> tuple[SparseAutoencoder, dict[str, Any]]:
        spec, last = self.settings.spec(), partial / "last.ckpt"
        module = SaeModule.from_moments(
            spec, self.data.train_moments, side, layer=self.layers[side], seed=self.fit.seed
        )
        loader = self.data.data.train_dataloader()
        self.trainer(f"sae-{side}", last, self.settings.epochs).fit(
            module, train_dataloaders=loader, ckpt_path=str(last) if last.is_file() else None
        )
        card = {"model": self.pair.names[side], "layer": self.layers[side], "sae": asdict(spec)}
        return module.autoencoder(), card

    def trainer(
        self, name: str, last: Path, epochs: int, options: Mapping[str, Any] | None = None
    ) -> L.Trainer:
        """A Trainer on training rows alone that continues from the checkpoint `last` and keeps it."""
        if last.parent.is_dir():
            sweep(last.parent)
        return L.Trainer(
            **{
                **(options or {}),
                **self.fit.trainer_options,
                # one process: those of a distributed fit have ended with it
                "devices": 1,
                "num_nodes": 1,
                "strategy": "auto",
                "logger": self.output.loggers(name),
                "callbacks": [
                    *self.fit.progress(self.rows.monitor, f"training {name}"),
                    *self.fit.resuming(last),
                ],
                "enable_progress_bar": False,
                "plugins": plugins(),
                "default_root_dir": self.output.logs,
                "enable_model_summary": False,
                "enable_checkpointing": True,
                "use_distributed_sampler": False,
                "max_epochs": epochs,
                "max_steps": -1,
                "check_val_every_n_epoch": 1,
                "val_check_interval": None,
                "limit_train_batches": max(1, self.settings.tokens // self.fit.batches.rows),
                "num_sanity_val_steps": 0,
                "limit_val_batches": 0,
            }
        )


def check_candidates(settings: Sae, candidates: LayerPair) -> None:
    """Raises UserError for files that cannot be read, or are of another width or of none of the candidate
    layers: what can be known before the layers are chosen."""
    for side in SIDES:
        layers = candidates.of(side)
        if (path := getattr(settings, side)) is not None:
            layer = load_published(Path(path)).layer
            if layer is not None and layer not in layers.layers:
                raise ConfigError(
                    f"analysis.sae.{side}={path} is of layer {layer}; expected one of the candidates "
                    f"{list(layers.layers)} (recording.{side})"
                )
            load_for(Path(path), layers.width, layers.layers[0] if layer is None else layer)


def load_for(path: Path, width: int, layer: int) -> SparseAutoencoder:
    """A published autoencoder of this width and layer. Raises UserError for another."""
    sae = load_published(path)
    if sae.layer is None:  # not every file names its layer; the config does
        sae = load_published(path, layer)
    check_fits(sae, width, layer)
    return sae
