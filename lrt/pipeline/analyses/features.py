"""Sparse autoencoders of both models: their geometry, and features that steer (paper 2.2 and 3.2)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrt.config import ConfigError
from lrt.errors import UserError
from lrt.evaluation import Behaviour
from lrt.evaluation.statistics import null_share, ratio_estimate
from lrt.features import (
    EncodedRows,
    SparseAutoencoder,
    behaviour_features,
    compare_decoders,
    decoded_direction,
    feature_direction,
    feature_moments,
    fit_s2l,
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
    layer_concat_bytes,
    ridge_path,
    solving_bytes,
)
from lrt.models.sides import SIDES
from lrt.pipeline.analyses.analysis import Analysis
from lrt.pipeline.analyses.autoencoders import Autoencoders, Batches
from lrt.pipeline.choices import Choices
from lrt.pipeline.fit_data import MOMENTS_BATCH, FitData
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.vectors import Vectors
from lrt.storage.fingerprint import fingerprint
from lrt.storage.locks import one_writer

NULL_DRAWS = 5
log = logging.getLogger(__name__)


class Features(Analysis):
    """Autoencoders at the deepest layer of the map in each model, and steering by their features.

    layers    The map's.
    steered   Behaviours to steer by features, at the layer and strength chosen for the native vector.
    """

    name = "sae"
    version = 5
    smaller = (
        "use autoencoders of fewer features, or none (analysis.sae.features=0, analysis.sae.source=null and "
        "analysis.sae.target=null)"
    )

    def __init__(
        self,
        autoencoders: Autoencoders,
        layers: LayerPair,
        steered: Sequence[Behaviour],
        vectors: Vectors,
        choices: Choices,
    ) -> None:
        self.autoencoders, self.layers, self.steered = autoencoders, layers, tuple(steered)
        self.vectors, self.choices = vectors, choices
        self.settings, self.fit, self.rows = autoencoders.settings, autoencoders.fit, autoencoders.rows
        self.monitor = self.rows.monitor

    @property
    def memory(self) -> int:
        """Of features with target states, twice; of co-activations; and of a ridge fit from features."""
        source, target = (self.autoencoders.features(side) for side in SIDES)
        features = LayerConcat((0,), source)
        pairs = 2 * 8 * source * target
        return (
            layer_concat_bytes(features, self.layers.target, 2)
            + solving_bytes(features, self.layers.target)
            + pairs
        )

    def check(self) -> None:
        """Raises UserError for files that cannot be read or are of another width or layer, and for a fit that
        cannot train the map from features."""
        _ = self.autoencoders.published
        if self.settings.s2l == "trained" and not isinstance(self.fit.fit, FitSpec):
            raise ConfigError(
                "analysis.sae.s2l=trained needs gradient steps, and fit=closed_form solves: use fit=adamw or "
                "fit=sgd, or set analysis.sae.s2l=solved"
            )

    def facts(self) -> Mapping[str, Any]:
        return {
            "autoencoders": {side: self.autoencoders.identity(side) for side in SIDES},
            "rows": self.autoencoders.data.facts,
            "target_layers": self.layers.target.layers,
            "tokens": self.settings.tokens,
            "least_correlation": self.settings.least_correlation,
            "top": self.settings.top,
            "s2l": self._s2l_facts(),
            # of the maps by which they are steered, and not of the autoencoders
            "excluded": self.rows.excluded.ids if self.steered else (),
            # where and how strongly each is steered follows from these
            "behaviours": {
                b.name: {
                    "data": fingerprint(b.facts),
                    "chosen": self.choices.facts(b, "target"),
                }
                for b in self.steered
            },
            "items": self.choices.settings.eval_split,
            "seed": self.fit.seed,
        }

    def _s2l_facts(self) -> Any:
        """What determines the map from features."""
        if self.settings.s2l == "solved":
            return "solved"
        return {"fit": self.fit.fit, "bias": self.fit.map.bias, **self.fit.gradient_facts()}

    def make(self) -> dict[str, Any]:
        with self.monitor.stage("sparse autoencoders"):
            # where the models are: encoding is most of the work
            pair = {
                side: self.autoencoders.of(side).to(self.autoencoders.pair.model(side).device)
                for side in SIDES
            }
            test = self.autoencoders.data.data
            results: dict[str, Any] = {
                side: {
                    "layer": self.autoencoders.layers[side],
                    **sae.describe(),
                    **asdict(score_autoencoder(sae, (b[side] for b in test.iterate("test")))),
                }
                for side, sae in pair.items()
            }
            results["geometry"] = self._geometry(pair["source"], pair["target"])
            results["steering"] = self._steering(pair["source"]) if self.steered else []
        return results

    def _geometry(self, source: SparseAutoencoder, target: SparseAutoencoder) -> dict[str, Any]:
        some = self.autoencoders.some(self.autoencoders.data, "train")
        tokens = ((b["source"], b["target"]) for b in some)
        try:
            score = compare_decoders(source, target, tokens, least=self.settings.least_correlation)
        except UserError as error:  # too few features have a partner: a finding, and no reason to stop
            log.warning("decoder geometry: %s", error)
            return {"note": str(error)}
        named = {
            name: asdict(value) if (value := getattr(score, name)) is not None else None
            for name in ("matched", "random", "shuffled")
        }
        return {"pairs": len(score.matching), "random_pairs": score.random_pairs, **named}

    # -- steering by features --------------------------------------------------------------------

    def _steering(self, sae: SparseAutoencoder) -> list[dict[str, Any]]:
        # every target layer that a behaviour may be steered at
        layers = LayerPair(self.autoencoders.data.layers.source, self.layers.target)
        data = self.rows.of(layers, tokens=True, folds=1)
        # both maps see the same rows
        train, held_out = (
            _moments(data, sae, batches)
            for batches in (
                self.autoencoders.some(data, "train"),
                data.data.iterate("validation", batch_rows=MOMENTS_BATCH),
            )
        )
        optimum = fit_s2l(train["features"], held_out["features"])
        s2l = (
            optimum.map
            if self.settings.s2l == "solved"
            else self._trained_s2l(data, sae, train["features"], optimum)
        )
        fit = {
            "fvu": held_out["features"].fvu_of(s2l),
            "optimum": optimum.fvu_validation,
            "fitted": self.settings.s2l,
        }
        l2l = ridge_path(train["states"], held_out["states"], bias=self.fit.map.bias).map
        results = []
        for behaviour in self.steered:
            states = self.vectors.at(layers)[behaviour.contrast]
            telling = behaviour_features(
                sae, states.source.positive, states.source.negative, top=self.settings.top
            )
            coefficients = telling.coefficients
            generator = torch.Generator().manual_seed(self.fit.seed)
            images = {
                "native": [states.target_vector],
                "s2l": [feature_direction(s2l, coefficients)],
                "l2l_features": [decoded_direction(l2l, sae, coefficients)],
                "l2l": [l2l.directions(states.source_vector)],
                "other_features": [
                    feature_direction(s2l, coefficients[torch.randperm(sae.features, generator=generator)])
                    for _ in range(NULL_DRAWS)
                ],
            }
            results.append(
                {
                    "behaviour": behaviour.name,
                    "features": telling.features.tolist(),
                    "share_of_vector": telling.cosine,
                    "s2l_fit": fit,
                    **self._measured(behaviour, images),
                }
            )
        shutil.rmtree(self._s2l_folder, ignore_errors=True)
        return results

    @property
    def _s2l_folder(self) -> Path:
        """Where a map from features keeps its checkpoint until everything is measured with it."""
        return self.rows.cache.path("saes", self.facts(), name="s2l")

    def _trained_s2l(
        self, data: FitData, sae: SparseAutoencoder, moments: Moments, optimum: RidgeFit
    ) -> AffineMap:
        """The map from features to target states by gradient steps, as `fit` says (paper, Table 2)."""
        fit = self.fit.fit
        assert isinstance(fit, FitSpec), "checked before anything costly"
        module = MapModule.from_moments(
            MapSpec("full", bias=self.fit.map.bias), fit, moments, reference_ridge=optimum, seed=self.fit.seed
        )
        last = self._s2l_folder / "checkpoints" / "last.ckpt"
        with one_writer(self._s2l_folder, "training s2l in", ConfigError, ConfigError, wait=True):
            self.autoencoders.trainer("s2l", last, fit.epochs, fit.trainer_options()).fit(
                module,
                datamodule=EncodedRows(data.data, sae),
                ckpt_path=str(last) if last.is_file() else None,
            )
        return module.affine()

    def _measured(self, behaviour: Behaviour, images: dict[str, list[Tensor]]) -> dict[str, Any]:
        """Scores under each direction at the layer and strength chosen for the native vector."""
        choices, seed = self.choices, self.fit.seed
        choice, split = choices.of(behaviour).choice, choices.settings.eval_split
        directions = {
            name: [self.layers.target.part(image.cpu(), choice.layer) for image in draws]
            for name, draws in images.items()
        }
        scores = choices.scores(behaviour, directions, split, f"{behaviour.name}, by features")
        (none,), (native,) = scores["none"], scores["native"]
        moved = native - none
        keys = [item.key for item in behaviour.items_of(split)]
        summaries: dict[str, Any] = {}
        for name in ("s2l", "l2l_features", "l2l"):
            (score,) = scores[name]
            ratio = ratio_estimate(score - none, moved, seed, keys)
            summaries[name] = {
                "mean": float(score.mean()),
                "ratio": ratio.value if ratio else None,
                "ratio_ci": ratio.to_list() if ratio else None,
            }
        changes = np.array([(score - none).mean() for score in scores["other_features"]])
        return {
            "layer": choice.layer,
            "strength": choice.strength,
            "unsteered": float(none.mean()),
            "native": float(native.mean()),
            **summaries,
            "other_features": null_share(changes, float(moved.mean())),
        }


def _moments(data: FitData, sae: SparseAutoencoder, batches: Batches) -> dict[str, Moments]:
    """Moments of the features and of the source's states, each with the target's states, in one pass."""
    states = data.no_rows()

    def passing() -> Batches:
        for batch in batches:
            states.update(batch["source"], batch["target"])
            yield batch

    return {"features": feature_moments(sae, passing(), products=states.products), "states": states}
