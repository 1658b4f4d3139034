"""Stage 5: the maps, one of the whole corpus and one for each part that has behaviours of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from lrt.config.sections import DuringTraining, Evaluation
from lrt.errors import InvalidValue
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
    FitSpec,
    MapForeign,
    MapMissing,
    cosine,
    excess,
    gcv_curve,
    layer_concat_bytes,
    load_map,
    ridge_at,
    shuffled_fvu,
)
from lrt.models.sides import SIDES
from lrt.pipeline.choices import Choices
from lrt.pipeline.fit_data import FitData, RowSource
from lrt.pipeline.layers import LayerPair
from lrt.pipeline.map_training import FitOutput, FitSettings, Fitted, solve, train
from lrt.pipeline.monitor import Monitor
from lrt.pipeline.nulls import Refit, transfer_maps
from lrt.pipeline.pair import ModelPair, UntrainedSource
from lrt.pipeline.provenance import versions
from lrt.pipeline.vectors import Vectors, contrasts_of, prompts_digests
from lrt.steering import Mapping as Transfer
from lrt.steering.map_folder import save_fitted
from lrt.storage.cache import Cache
from lrt.storage.fingerprint import fingerprint, tensor_digest

GIVEN_HINT = "Give evaluation.map the folder of a map of this pair, or leave it out"


class MapFit:
    """The map of some rows, and the behaviours whose vectors it transfers.

    data        The rows.
    behaviours  Those whose vectors the map is for.
    given       The folder of a map that was fitted before, on whatever rows, which is used in place of one of
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
        given: Path | None = None,
    ) -> None:
        self.given = given
        self.data, self.behaviours, self.pair = data, tuple(behaviours), pair
        self.settings, self.output, self.monitor = settings, output, monitor
        self.contrasts = contrasts_of(behaviours)
        self.states: dict[str, ContrastStates] = vectors.at(data.layers)
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
        """Of everything that determines the map; of one that is given, and of its nulls."""
        own = map_fingerprint(self.data, self.settings)
        if self.given is None:
            return own
        affine, card = self.open()
        return fingerprint({"map": card["fingerprint"], "weight": tensor_digest(affine.weight), "rows": own})

    @property
    def folder(self) -> Path:
        """Where the map is, or will be."""
        if self.given is not None:
            return self.given
        return self._cache.folder / "maps" / self.fingerprint

    @property
    def exists(self) -> bool:
        """Whether it has been fitted."""
        return (self.folder / "mapping.json").is_file()

    # -- reading ---------------------------------------------------------------------------------

    def open(self) -> tuple[AffineMap, dict[str, Any]]:
        """The map and the card it was saved with. Raises MapMissing naming the `train.py` line that makes it,
        MapCorrupt and MapForeign; and for a map that is given, MapForeign unless it is between these layers
        of these models."""
        if self.given is not None:
            affine, card = load_map(self.given, fix_hint=GIVEN_HINT)
            self._check_given(card)
            return affine, card
        hint = f"make it with: {self.output.command}"
        if self.exists:
            hint = f"delete the folder {self.folder} and {hint}"
        affine, card = load_map(self.folder, fix_hint=hint)
        if card.get("fingerprint") != self.fingerprint:
            raise MapForeign(f"{self.folder} holds the map of other settings. {hint}")
        return affine, card

    def _check_given(self, card: Mapping[str, Any]) -> None:
        layers = {side: list(self.layers.of(side).layers) for side in SIDES}
        if (theirs := card.get("layers")) != layers:
            raise MapForeign(
                f"{self.given} holds a map between layers {theirs}, and the settings are {layers}: set "
                "layers.source and layers.target to the map's"
            )
        if "prompts" not in card:
            raise MapForeign(
                f"{self.given} holds a map of lrt.fit_map, whose card does not say which files its models "
                "were loaded from. Give evaluation.map a map of a run, or leave it out"
            )
        for side in SIDES:
            if card["models"][side].get("identity") != self.pair.identities[side]:
                raise MapForeign(
                    f"{self.given} holds a map of {card.get('pair') or 'another pair'}, whose {side} model "
                    f"is another than {self.pair.names[side]} as it is loaded here: set pair.{side} to the "
                    f"map's. {GIVEN_HINT}"
                )

    def documents_seen(self) -> dict[str, int | None]:
        """By behaviour, how many documents that share text with it the map was fitted on; None where the
        map's corpus is another, so that nobody here can tell."""
        shared = self.data.shared
        if self.given is None:
            return dict.fromkeys(shared.by_behaviour, 0)
        return shared.seen_by(self.open()[1].get("excluded"))

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
        return Transfer(
            affine,
            self.layers.source,
            self.layers.target,
            self.pair.names["source"],
            self.pair.names["target"],
            {layer: norms[f"target.{layer}"] for layer in self.layers.target.layers},
            self.fingerprint,
        )

    def card(self) -> dict[str, Any]:
        """The map's card, with its figures along the vectors of today's behaviours."""
        affine, card = self.open()
        prompts = prompts_digests(self.contrasts)
        if card["prompts"] == prompts:
            return card
        return {**card, "prompts": prompts, "metrics": {**card["metrics"], **self._along_vectors(affine)}}

    # -- fitting ---------------------------------------------------------------------------------

    def fit(self, evaluation: SteeringEvalCallback | None) -> dict[str, Any]:
        """Trains or solves the map, or opens it and adds the vectors of new behaviours; its card.

        evaluation  Steers during training.
        """
        if self.exists:
            affine, card = self.open()
            if card["prompts"] != prompts_digests(self.contrasts):
                self._save_vectors(affine, known=card["prompts"])
            if card["sums"] is None and self._saves_sums:
                save_fitted(self.folder, affine, self.data.folds, card)
            return self.card()
        match self.settings.fit:
            case FitSpec() as spec:
                vectors = dict(self._native_vectors())
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
        self, settings: Evaluation, seed: int, untrained: UntrainedSource | None
    ) -> TransferMaps:
        """The map, and those of its nulls and intervals."""
        return transfer_maps(self.mapping, self.refit, settings, seed, untrained)

    def _save(self, fitted: Fitted) -> None:
        card = self._new_card(fitted)
        self._save_vectors(fitted.affine)
        folds = self.data.folds if self._saves_sums else []
        save_fitted(self.folder, fitted.affine, folds, card)  # last: a folder with its card is whole

    @property
    def _saves_sums(self) -> bool:
        """Whether the sums of all folds are small enough to lie beside the map."""
        return layer_concat_bytes(*self.layers, self.data.settings.folds) <= self.output.most_sums

    # -- the card --------------------------------------------------------------------------------

    def _new_card(self, fitted: Fitted) -> dict[str, Any]:
        data, affine, reference = self.data, fitted.affine, self.data.reference_ridge
        test = data.moments["test"]
        fvu, optimum = test.fvu_of(affine), test.fvu_of(reference.map)
        excluded = data.in_order.rows_excluded["train"]
        filter_ = data.settings.filter
        return {
            "fingerprint": self.fingerprint,
            "pair": self.pair.name,
            "models": self.pair.described(),
            "layers": {side: list(self.layers.of(side).layers) for side in SIDES},
            "residual_norms": [data.states.median_norms[f"target.{n}"] for n in self.layers.target.layers],
            "corpus": {
                "digest": data.states.text.digest,
                "context": data.states.text.settings.context,
                "pool": data.settings.pool,
                "parts": list(data.parts),
                "filter": {**asdict(filter_), "token_ids": list(filter_.token_ids)},
            },
            "prompts": prompts_digests(self.contrasts),
            "store": data.states.fingerprint,
            "excluded": data.shared.card(),
            "map": asdict(self.settings.map),
            "fit": asdict(self.settings.fit),
            "trainer": self.settings.gradient_facts()["trainer"] if fitted.solved is None else {},
            "steps": fitted.steps,
            "rows": dict(data.in_order.rows),
            "rows_excluded": sum(excluded.values()),
            "rows_excluded_by": excluded,
            "metrics": {
                "fvu": fvu,
                "r2": 1 - fvu,
                "cosine": fitted.cosine,
                "optimum_fvu": optimum,
                "excess_over_optimum": excess(fvu, optimum),
                "ridge_weight": reference.weight,
                "fvu_shuffled": self._shuffled_fvu(),
                **self._cross_validated(),
                "fvu_validation": data.moments["validation"].fvu_of(affine),
                "fvu_tokens": data.token_moments["kept"].fvu_of(affine),
                "fvu_unfiltered": data.token_moments["unfiltered"].fvu_of(affine),
                **self._along_vectors(affine),
            },
            "training": {
                "train": fitted.history.train,
                "val": fitted.history.val,
                "optimum": reference.fvu_validation,
                "steering_evaluations": fitted.evaluations,
            },
            "solved": fitted.solved,
            "seconds": dict(self.monitor.seconds),
            "versions": versions(),
        }

    def _shuffled_fvu(self) -> float | None:
        """Expected FVU of the reference ridge on shuffled pairs.

        None without a bias, and where rows do not span the source.
        """
        data = self.data
        if not data.settings.bias:
            return None
        try:
            return shuffled_fvu(data.train_moments, data.reference_ridge.weight, data.moments["test"])
        except InvalidValue:
            return None

    def _cross_validated(self) -> dict[str, float | None]:
        """The weight that generalised cross-validation would choose, and its FVU: a diagnostic of how far
        neighbouring rows are from independent."""
        data, bias = self.data, self.settings.map.bias
        weights = data.reference_ridge.weights[data.reference_ridge.weights > 0]
        try:
            curve = gcv_curve(data.train_moments, weights, bias=bias)
        except InvalidValue:  # as many degrees of freedom as rows
            return {"gcv_weight": None, "gcv_fvu": None}
        weight = float(weights[int(curve.argmin())])
        fvu = data.moments["test"].fvu_of(ridge_at(data.train_moments, weight, bias=bias))
        return {"gcv_weight": weight, "gcv_fvu": fvu}

    # -- along the vectors -------------------------------------------------------------------------

    def _at_target_layers(self) -> Iterator[tuple[str, ContrastStates, int]]:
        """Every contrast at every target layer: its label (`name`, of several layers `name@layer`), its
        states and the layer."""
        layers = self.layers.target.layers
        for name in self.contrasts:
            for layer in layers:
                yield f"{name}@{layer}" if len(layers) > 1 else name, self.states[name], layer

    def _native_vectors(self) -> Iterator[tuple[str, Tensor]]:
        """Native vectors `[d_target]` over all target layers, zero but at one, by label."""
        for label, states, layer in self._at_target_layers():
            yield label, self.layers.target.alone(states.target_vector, layer)

    def _along_vectors(self, affine: AffineMap) -> dict[str, Any]:
        """Error along each native vector, and its cosine with the transferred one, by label."""
        test, mapping = self.data.moments["test"], self.mapping_of(affine)
        return {
            "error_along": {label: test.error_along(affine, v) for label, v in self._native_vectors()},
            "cosine_with_native": {
                label: cosine(
                    mapping.transfer(states.vectors("source"), layer).direction,
                    self.layers.target.part(states.target_vector, layer),
                )
                for label, states, layer in self._at_target_layers()
            },
        }

    def _save_vectors(self, affine: AffineMap, known: Mapping[str, str] = MappingProxyType({})) -> None:
        """Saves source, native and transferred vectors of every contrast, for use elsewhere; not those that
        are `known` by the same prompts."""
        for name, digest in prompts_digests(self.contrasts).items():
            if known.get(name) == digest:
                continue
            states = self.states[name]
            source, native = states.vectors("source"), states.vectors("target")
            mapping = self.mapping_of(affine)
            transferred = [mapping.transfer(source, layer) for layer in self.layers.target.layers]
            for role, saved in (("source", source), ("native", native), ("transferred", transferred)):
                for vector in saved:
                    vector.save(self.folder / "vectors" / name / role / f"layer-{vector.layer}")


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

        settings, choices  For steering evaluation during training.
        """
        cards = {}
        for fit in self.all:
            evaluation = None
            trains = isinstance(fit.settings.fit, FitSpec) and not fit.exists
            if settings.behaviours and trains:
                evaluation = steering_evaluation(fit, settings, choices)
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
    given: Path | None = None,
) -> Maps:
    """The maps that the suite needs; nothing is fitted yet.

    parts_for  By behaviour, the parts of the corpus that its map is fitted on; empty for the whole corpus.
    given      The folder of a map that was fitted before, which is used for all behaviours.
    """

    def plan(parts: tuple[str, ...], behaviours: Sequence[Behaviour]) -> MapFit:
        data = rows.of(layers, parts, shuffled=True)
        return MapFit(data, behaviours, vectors, pair, settings, output, rows.cache, rows.monitor, given)

    if given is not None:
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
    layers: LayerPair,
    parts_for: Mapping[str, tuple[str, ...]],
    rows: RowSource,
    settings: FitSettings,
    output: FitOutput,
) -> None:
    """Raises MapMissing, naming the `train.py` line that makes it, where a map has not been fitted."""
    for parts in {(), *parts_for.values()}:
        folder = rows.cache.folder / "maps" / map_fingerprint(rows.of(layers, parts), settings)
        if not (folder / "mapping.json").is_file():
            raise MapMissing(f"there is no map in {folder}. Make it with: {output.command}")


def steering_evaluation(fit: MapFit, settings: DuringTraining, choices: Choices) -> SteeringEvalCallback:
    """The callback that steers with the unfinished map, for the behaviours that the settings name."""
    tracked = []
    for behaviour in fit.behaviours:
        if behaviour.name in settings.behaviours:
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
        settings.every,
        settings.items,
        evaluation.temperature,
        evaluation.max_rows,
    )
