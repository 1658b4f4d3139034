"""Stage 5: the maps, one of the whole corpus and one for each part that has behaviours of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.config.sections import DuringTraining, Evaluation
from lrt.evaluation import (
    Behaviour,
    ContrastStates,
    SteeringEvalCallback,
    TrackedBehaviour,
    TransferMaps,
)
from lrt.mapping import (
    AffineMap,
    ClosedFormSpec,
    FitHistory,
    FitSpec,
    MapForeign,
    MapMissing,
    MapSpec,
    cosine,
    layer_concat_bytes,
    load_map,
)
from lrt.pipeline.choices import Choices
from lrt.pipeline.existing_map import open_existing
from lrt.pipeline.fit_data import FitData, RowSource
from lrt.pipeline.layers import LayerPair, LayerPlan
from lrt.pipeline.map_figures import map_figures
from lrt.pipeline.map_training import FitOutput, FitSettings, Fitted, mean_cosine, solve, train
from lrt.pipeline.map_vectors import MapVectors
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.nulls import Refit, transfer_maps
from lrt.pipeline.pair import ModelPair, UntrainedSource
from lrt.pipeline.provenance import versions
from lrt.pipeline.vectors import Vectors, contrasts_of
from lrt.steering import Mapping as Transfer
from lrt.steering import SourcePart
from lrt.steering.map_folder import save_fitted
from lrt.storage.cache import Cache
from lrt.storage.fingerprint import fingerprint, tensor_digest


class MapFit:
    """The map of some rows, and the behaviours whose vectors it transfers.

    data        The rows.
    behaviours  Those whose vectors the map is for.
    contrasts   Their contrastive sets, as far as they were extracted.
    existing    The folder of a map that was fitted before, on whatever rows, which is used in place of one of
                these rows. Its nulls are of these rows all the same.
    """

    def __init__(
        self,
        data: FitData,
        behaviours: Sequence[Behaviour],
        vectors: Vectors,
        pair: ModelPair,
        settings: FitSettings,
        output: FitOutput,
        cache: Cache,
        monitor: Monitor,
        existing: Path | None = None,
    ) -> None:
        self.existing = existing
        self.data, self.behaviours, self.pair = data, tuple(behaviours), pair
        self.settings, self.output, self.monitor = settings, output, monitor
        self.contrasts = {n: b for n, b in contrasts_of(behaviours).items() if n in vectors.states}
        self.states: dict[str, ContrastStates] = vectors.at(data.layers)
        self.vectors = MapVectors(self.contrasts, self.states, data.layers, self.mapping_of)
        self.refit = Refit(data, settings.fit)
        self._cache = cache

    @property
    def name(self) -> str:
        """The parts of the corpus that it is fitted on, for people."""
        return self.data.name

    @property
    def layers(self) -> LayerPair:
        """Between which it maps."""
        return self.data.layers

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that determines the map; of an existing one, and of its nulls."""
        own = map_fingerprint(self.data, self.settings)
        if self.existing is None:
            return own
        affine, card = self.open()
        return fingerprint({"map": card["fingerprint"], "weight": tensor_digest(affine.weight), "rows": own})

    @property
    def folder(self) -> Path:
        """Where the map is, or will be."""
        if self.existing is not None:
            return self.existing
        return self._cache.folder / "maps" / self.fingerprint

    @property
    def exists(self) -> bool:
        """Whether it has been fitted."""
        return (self.folder / "mapping.json").is_file()

    # -- reading ---------------------------------------------------------------------------------

    def open(self) -> tuple[AffineMap, dict[str, Any]]:
        """The map and the card it was saved with. Raises MapMissing naming the `train.py` line that makes it,
        MapCorrupt and MapForeign; and for an existing map, MapForeign unless it is between these layers
        of these models."""
        if self.existing is not None:
            return self._opened
        hint = f"make it with: {self.output.command}"
        if self.exists:
            hint = f"delete the folder {self.folder} and {hint}"
        affine, card = load_map(self.folder, fix_hint=hint)
        if card.get("fingerprint") != self.fingerprint:
            raise MapForeign(f"{self.folder} holds the map of other settings. {hint}")
        return affine, card

    @cached_property
    def _opened(self) -> tuple[AffineMap, dict[str, Any]]:
        """The existing map: nobody changes it during a run."""
        assert self.existing is not None
        return open_existing(self.existing, self.layers, self.pair)

    @cached_property
    def documents_seen(self) -> dict[str, int | None]:
        """By behaviour, how many documents that share text with it the map was fitted on; None where the
        map's corpus is another, so that nobody here can tell."""
        shared = self.data.shared
        if self.existing is None:
            return dict.fromkeys(shared.by_behaviour, 0)
        card = self.open()[1]
        return shared.seen_by(card.get("excluded"), card["corpus"].get("parts", ()))

    @cached_property
    def affine(self) -> AffineMap:
        """The fitted map."""
        return self.open()[0]

    @cached_property
    def mapping(self) -> Transfer:
        """The fitted map between the pair's layers: what transfers vectors."""
        return self.mapping_of(self.affine)

    def mapping_of(self, affine: AffineMap) -> Transfer:
        """Any map of these rows, finished or not, between the pair's layers."""
        norms = self.data.states.median_norms
        alone = SourcePart(self.pair.names["source"], self.layers.source, 1.0)
        source, *beside = self.pair.parts or (alone,)
        return Transfer(
            affine,
            source.layers,
            self.layers.target,
            source.model,
            self.pair.names["target"],
            {layer: norms[f"target.{layer}"] for layer in self.layers.target.layers},
            self.fingerprint,
            tuple(beside),
        )

    def card(self) -> dict[str, Any]:
        """The map's card, with its figures along the vectors of today's behaviours."""
        affine, card = self.open()
        if self.existing is not None:  # its figures on these rows; those of its card are of rows of its own
            note = f"fitted before: {self.existing}"
            solved = {"note": note, "ridge_weight": None}
            fitted = Fitted(affine, FitHistory(), [], 0, mean_cosine(affine, self.data), solved)
            return self._new_card(fitted) | {"map": card.get("map") or asdict(MapSpec())}
        card["excluded"] = self.data.shared.card()  # the same documents, by the behaviours of today
        prompts = self.vectors.digests
        if card["prompts"] == prompts:
            return card
        return {
            **card,
            "prompts": prompts,
            "metrics": {**card["metrics"], **self.vectors.figures(affine, self.data.moments["test"])},
        }

    # -- fitting ---------------------------------------------------------------------------------

    def fit(self, evaluation: SteeringEvalCallback | None) -> dict[str, Any]:
        """Trains or solves the map, or opens it and adds the vectors of new behaviours; its card.

        evaluation  Steers during training.
        """
        if self.exists:
            affine, card = self.open()
            if card["prompts"] != self.vectors.digests:
                self.vectors.save(self.folder / "vectors", affine, known=card["prompts"])
            if card["sums"] is None and self._saves_sums:
                save_fitted(self.folder, affine, self.data.folds, card)
            return self.card()
        match self.settings.fit:
            case FitSpec() as spec:
                vectors = dict(self.vectors.native())
                train(
                    self.data,
                    spec,
                    self.settings,
                    vectors,
                    evaluation,
                    self.output,
                    self.folder,
                    self._save,
                    lambda: self.exists,
                )
            case ClosedFormSpec() as spec:
                with self.monitor.stage("fit maps"):
                    fitted = solve(self.data, spec, self.settings.map, self.refit, self.pair)
                self._save(fitted)
        return self.card()

    def transfer_maps(
        self, settings: Evaluation, seed: int, untrained: Sequence[UntrainedSource]
    ) -> TransferMaps:
        """The map, and the vectors of all contrasts as its nulls and refits transfer them."""
        parts: dict[str, Tensor] = {}
        if settings.resampled_draws and settings.part_weights:
            for name, (whole, without) in self._by_parts.items():
                if without:
                    parts[name] = torch.stack([whole - image for image in without.values()])
        return transfer_maps(self.mapping, self.states, self.refit, settings, seed, untrained, parts)

    @cached_property
    def _by_parts(self) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """By contrast, its vector as transferred by the reference ridge map, and without each part of the
        corpus."""
        contrasts = sorted(self.states)
        vectors = torch.stack([self.states[name].source_vector for name in contrasts])
        whole = self.data.reference_ridge.map.directions(vectors)
        without = self.refit.without_parts(vectors)
        return {
            name: (whole[i], {part: images[i] for part, images in without.items()})
            for i, name in enumerate(contrasts)
        }

    def kind_of(self, contrast: str, columns: slice) -> KindOfText | None:
        """The part of the corpus that a transferred vector depends on most, at some target columns. None
        where the corpus has no two parts, or no states of them are kept."""
        whole, without = self._by_parts[contrast]
        cosines = {part: cosine(whole[columns], image[columns]) for part, image in without.items()}
        if not cosines:
            return None
        part = min(cosines, key=cosines.__getitem__)
        return KindOfText(part, without[part][columns], cosines[part])

    def _save(self, fitted: Fitted) -> None:
        card = self._new_card(fitted)
        self.vectors.save(self.folder / "vectors", fitted.affine)
        folds = self.data.folds if self._saves_sums else []
        save_fitted(self.folder, fitted.affine, folds, card)  # last: a folder with its card is whole

    @property
    def _saves_sums(self) -> bool:
        """Whether the sums of all folds are small enough to lie beside the map."""
        return layer_concat_bytes(*self.layers, self.data.settings.folds) <= self.output.most_sums

    def _numbered_folds(self, fitted: Fitted) -> int | None:
        """Folds, where the map is the ridge map of their sums and a document's id gives its fold."""
        solved = fitted.solved is not None and self.settings.fit == ClosedFormSpec()
        ridge = solved and self.settings.map.kind == "full"
        return self.data.settings.folds if ridge and not self.data.states.text.duplicate_groups else None

    # -- the card --------------------------------------------------------------------------------

    def _new_card(self, fitted: Fitted) -> dict[str, Any]:
        data, affine = self.data, fitted.affine
        excluded = data.in_order.rows_excluded["train"]
        filter_ = data.settings.filter
        return {
            "fingerprint": self.fingerprint,
            "pair": self.pair.name,
            "models": self.pair.described(),
            "layers": {
                "source": list(self.mapping_of(affine).source.layers),
                "target": list(self.layers.target.layers),
            },
            **({"beside": beside} if (beside := self.pair.beside()) else {}),
            "residual_norms": [data.states.median_norms[f"target.{n}"] for n in self.layers.target.layers],
            "corpus": {
                "digest": data.states.text.digest,
                "context": data.states.text.settings.context,
                "pool": data.settings.pool,
                "parts": list(data.parts),
                **({"aligned": data.states.text.paired} if self.pair.aligned else {}),
                "filter": {**asdict(filter_), "token_ids": list(filter_.token_ids)},
            },
            "prompts": self.vectors.digests,
            "store": data.states.fingerprint,
            "excluded": data.shared.card(),
            "map": asdict(self.settings.map),
            "fit": asdict(self.settings.fit),
            "trainer": self.settings.gradient_facts()["trainer"] if fitted.solved is None else {},
            "steps": fitted.steps,
            "folds": self._numbered_folds(fitted),
            "rows": dict(data.in_order.rows),
            "rows_excluded": sum(excluded.values()),
            "rows_excluded_by": excluded,
            "metrics": {
                **map_figures(data, affine),
                "cosine": fitted.cosine,
                **self.vectors.figures(affine, data.moments["test"]),
            },
            "training": {
                "train": fitted.history.train,
                "val": fitted.history.val,
                "optimum": data.reference_ridge.fvu_validation,
                "steering_evaluations": fitted.evaluations,
            },
            "solved": fitted.solved,
            "seconds": dict(self.monitor.seconds),
            "versions": versions(),
        }


@dataclass(frozen=True, eq=False)
class KindOfText:
    """The part of a map's corpus without which a transferred vector changes most.

    without  The vector `[d_target]` by the ridge map without the part.
    cosine   Of it with the vector by the ridge map of all parts.
    """

    part: str
    without: Tensor
    cosine: float


@dataclass(frozen=True)
class Maps:
    """All maps of a run: that of the whole corpus, and those of parts that have behaviours of their own."""

    whole: MapFit
    of_parts: tuple[MapFit, ...]

    @property
    def all(self) -> tuple[MapFit, ...]:
        """Every map, that of the whole corpus first."""
        return (self.whole, *self.of_parts)

    def of(self, behaviour: Behaviour) -> MapFit:
        """The map that transfers a behaviour's vector."""
        own = (fit for fit in self.of_parts if behaviour.name in {b.name for b in fit.behaviours})
        return next(own, self.whole)

    def fit(self, settings: DuringTraining, choices: Choices) -> dict[str, dict[str, Any]]:
        """Fits those that are missing; the cards of all by name.

        settings, choices  For steering evaluation during training: of each behaviour on the map that
                           transfers it.
        """
        cards = {}
        for fit in self.all:
            evaluation = None
            trains = isinstance(fit.settings.fit, FitSpec) and not fit.exists
            followed = [b for b in fit.behaviours if b.name in settings.behaviours and self.of(b) is fit]
            if followed and trains:
                evaluation = steering_evaluation(fit, followed, settings, choices)
            cards[fit.name] = fit.fit(evaluation)
        return cards

    def cards(self) -> dict[str, dict[str, Any]]:
        """The cards of all maps by name. Raises MapMissing naming the `train.py` line that makes them."""
        return {fit.name: fit.card() for fit in self.all}


def plan_maps(
    layers: LayerPair,
    suite: Sequence[Behaviour],
    parts_for: Mapping[str, tuple[str, ...]],
    rows: RowSource,
    vectors: Vectors,
    pair: ModelPair,
    settings: FitSettings,
    output: FitOutput,
    existing: Path | None = None,
) -> Maps:
    """The maps that the suite needs; nothing is fitted yet.

    parts_for  By behaviour, the parts of the corpus that its map is fitted on; empty for the whole corpus.
    existing   The folder of a map that was fitted before, which is used for all behaviours.
    """

    def plan(parts: tuple[str, ...], behaviours: Sequence[Behaviour]) -> MapFit:
        data = rows.of(layers, parts, shuffled=True)
        return MapFit(data, behaviours, vectors, pair, settings, output, rows.cache, rows.monitor, existing)

    if existing is not None:
        return Maps(plan((), suite), ())
    own: dict[tuple[str, ...], list[Behaviour]] = {}
    for behaviour in suite:
        if parts := parts_for[behaviour.name]:
            own.setdefault(parts, []).append(behaviour)
    return Maps(plan((), suite), tuple(plan(parts, behaviours) for parts, behaviours in own.items()))


def map_fingerprint(data: FitData, settings: FitSettings) -> str:
    """Of everything that determines the map of some rows."""
    settings = settings if not data.parts else settings.without_checkpoint()
    return fingerprint({**data.facts, **settings.facts()})


def require_maps(
    plan: LayerPlan,
    parts_for: Mapping[str, tuple[str, ...]],
    rows: RowSource,
    settings: FitSettings,
    output: FitOutput,
) -> None:
    """Raises MapMissing, naming the `train.py` line that makes it, where a map has not been fitted.

    Which map is needed of layers that are chosen by what steers shows later. Before states are recorded for
    that, some map of these states must be there.
    """
    maps = rows.cache.folder / "maps"
    if plan.automatic:
        states = rows.states.fingerprint.encode()
        if not any(states in card.read_bytes() for card in maps.glob("*/mapping.json")):
            raise MapMissing(f"there is no map of these states in {maps}. Make it with: {output.command}")
        return
    for parts in {(), *parts_for.values()}:
        folder = maps / map_fingerprint(rows.of(plan.candidates, parts), settings)
        if not (folder / "mapping.json").is_file():
            raise MapMissing(f"there is no map in {folder}. Make it with: {output.command}")


def steering_evaluation(
    fit: MapFit, behaviours: Sequence[Behaviour], settings: DuringTraining, choices: Choices
) -> SteeringEvalCallback:
    """The callback that steers with the unfinished map, for these behaviours."""
    tracked = []
    for behaviour in behaviours:
        states, chosen = fit.states[behaviour.contrast], choices.of(behaviour)
        native = {vector.layer: vector for vector in states.vectors("target")}
        tracked.append(
            TrackedBehaviour(
                behaviour,
                chosen.model,
                states.vectors("source"),
                native[chosen.choice.layer],
                chosen.choice.strength,
            )
        )
    evaluation = choices.settings
    return SteeringEvalCallback(
        tracked,
        fit.mapping_of,
        fit.data.moments["validation"].fvu_of,
        settings.points,
        settings.items,
        fit.settings.seed,
        evaluation.temperature,
        evaluation.max_rows,
    )
