"""When a map pays: native vectors from few contrastive pairs, against vectors that it transfers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lrt.config import Price as Settings
from lrt.evaluation import Behaviour, end_tokens
from lrt.evaluation.few_shot import (
    ALL_NATIVE,
    ALL_TRANSFERRED,
    FewShot,
    available_pairs,
    condition,
    few_shot_vectors,
)
from lrt.evaluation.journal import Journal
from lrt.evaluation.price import PricedScores, break_even, price_rows, price_scores, shares_of
from lrt.evaluation.score_table import ScoreMissing
from lrt.mapping import LayerConcat
from lrt.models import sampling_facts
from lrt.models.last_states import tokens_run
from lrt.models.prompts import encode_prompts
from lrt.pipeline.analyses.analysis import Analysis
from lrt.pipeline.choices import Choices
from lrt.pipeline.maps import MapFit, Maps
from lrt.steering import prompts_digest
from lrt.storage.cache import JSON, Cache
from lrt.storage.fingerprint import fingerprint

log = logging.getLogger(__name__)


class Price(Analysis):
    """Effect and cost of vectors from few pairs, for each behaviour, at the layer and strength chosen for the
    native vector from all pairs."""

    name = "price"
    smaller = "name fewer layers (layers.source, layers.target)"

    def __init__(
        self, settings: Settings, behaviours: Sequence[Behaviour], maps: Maps, choices: Choices, cache: Cache
    ) -> None:
        self.settings, self.maps, self.choices, self.cache = settings, maps, choices, cache
        self.behaviours = tuple(behaviours)
        self.seed = maps.whole.settings.seed

    def facts(self) -> Mapping[str, Any]:
        return {"behaviours": {b.name: self._facts(b) for b in self.behaviours}}

    def _facts(self, behaviour: Behaviour) -> dict[str, Any]:
        evaluation, pair = self.choices.settings, self.choices.pair
        read = pair.read_by("source", behaviour)
        return {
            "version": self.version,
            "map": self.maps.of(behaviour).fingerprint,
            "behaviour": fingerprint(behaviour.facts),
            "source_prompts": prompts_digest(read.positives, read.negatives),
            # where and how strongly it is steered follows from these
            "chosen": self.choices.facts(behaviour, "target"),
            "grid": asdict(evaluation.grid.of(behaviour)),
            "items": evaluation.eval_split,
            "counts": self.settings.counts,
            "draws": self.settings.draws,
            "seed": self.seed,
            "ends": end_tokens(pair.target),
            **sampling_facts(evaluation.temperature),
            # sides of other lengths were once taken for pairs
            **({} if len(read.positives) == len(read.negatives) else {"paired": False}),
        }

    def make(self) -> dict[str, Any]:
        priced: list[dict[str, Any]] = []
        notes: dict[str, str] = {}
        with self.maps.whole.monitor.stage("price"):
            for behaviour in self.behaviours:
                try:
                    priced.append(self._priced(behaviour))
                except ScoreMissing as error:  # the others are worth having
                    log.warning("%s has no price: %s", behaviour.name, error)
                    notes[behaviour.name] = str(error)
        return {"counts": list(self.settings.counts), "behaviours": priced, "notes": notes}

    def _priced(self, behaviour: Behaviour) -> dict[str, Any]:
        fit, chosen = self.maps.of(behaviour), self.choices.of(behaviour)
        choice, states = chosen.choice, fit.states[behaviour.contrast]
        by_count = few_shot_vectors(
            states, fit.mapping, choice.layer, self.settings.counts, self.settings.draws, self.seed
        )
        target: LayerConcat = states.target.layers
        native = target.part(states.target_vector, choice.layer)
        moved = fit.mapping.transfer(states.vectors("source"), choice.layer).direction
        vectors: dict[str, list[Tensor]] = {ALL_NATIVE: [native], ALL_TRANSFERRED: [moved]}
        for few in by_count:
            vectors |= few.directions()
        scores = self._scores(behaviour, vectors)

        pairs = available_pairs(states.target)
        # all prompts, which are more than all pairs where one side is longer
        every = max(len(behaviour.positives), len(behaviour.negatives))
        tokens = {few.count: self._tokens(behaviour, few, choice.layer) for few in by_count}
        tokens[every] = self._run(behaviour.positives, behaviour.negatives, choice.layer)
        left_out = [count for count in self.settings.counts if count > pairs]
        result: dict[str, Any] = {
            "name": behaviour.name,
            "map": fit.name,
            "layer": choice.layer,
            "strength": choice.strength,
            "damage": scores.damage,
            "damaged": choice.damaged,
            "items": len(scores.keys),
            "pairs": pairs,
            "tokens": {str(count): each for count, each in tokens.items()},
            "map_tokens": self._map_tokens(fit),
            "few_shot": [self._described(few, native, scores) for few in by_count],
            "counts_left_out": left_out,
        }
        for name, at in (("chosen", scores.chosen), ("equal_damage", scores.equal_damage)):
            shares = at and shares_of(at, scores.keys, behaviour.direction, self.seed)
            if not shares:
                result[name] = None
                continue
            result[name] = {
                "shares": {
                    each: {"value": value, "interval": shares.interval(each)}
                    for each, value in shares.values.items()
                },
                "break_even": None
                if result["map_tokens"] is None
                else asdict(break_even(shares, tokens, every, result["map_tokens"])),
            }
        return result

    def _scores(self, behaviour: Behaviour, vectors: Mapping[str, Sequence[Tensor]]) -> PricedScores:
        evaluation, monitor = self.choices.settings, self.maps.whole.monitor
        split = evaluation.eval_split

        def make(partial: Path) -> dict[str, Any]:
            rows = price_rows(behaviour, vectors, split)
            with (
                Journal(partial) as journal,
                monitor.progress(f"{behaviour.name}, price", rows) as advance,
            ):
                return price_scores(
                    self.choices.of(behaviour),
                    behaviour,
                    vectors,
                    evaluation.grid.of(behaviour),
                    split,
                    temperature=evaluation.temperature,
                    max_rows=evaluation.max_rows,
                    progress=advance,
                    journal=journal,
                ).to_data()

        facts = {"price": self._facts(behaviour)}
        return PricedScores.from_data(
            self.cache.resumed("scores", facts, make, JSON, f"{behaviour.name}-price")
        )

    def _described(self, few: FewShot, native: Tensor, scores: PricedScores) -> dict[str, Any]:
        """How alike vectors from few pairs are to the native one from all, and how they were measured."""
        return {
            "pairs": few.count,
            "draws": len(few.native),
            "cosines": {
                kind: sum(float(cosine_similarity(each, native, dim=0)) for each in draws) / len(draws)
                for kind, draws in few.by_kind.items()
            },
            "native_weight": sum(few.weights) / len(few.weights) if few.weights else None,
            "strengths": {
                kind: scores.strengths[name]
                for kind in few.by_kind
                if (name := condition(kind, few.count)) in scores.strengths
            },
        }

    # -- what it costs ---------------------------------------------------------------------------

    def _tokens(self, behaviour: Behaviour, few: FewShot, layer: int) -> float:
        """Target tokens of a native vector from so many pairs, mean over the draws."""
        costs = [
            self._run(
                [behaviour.positives[i] for i in positive.tolist()],
                [behaviour.negatives[i] for i in negative.tolist()],
                layer,
            )
            for positive, negative in few.pairs
        ]
        return sum(costs) / len(costs)

    def _run(self, positives: Sequence[str], negatives: Sequence[str], layer: int) -> int:
        """Target tokens that both sides' prompts run."""
        target = self.choices.pair.target
        return tokens_run(target, encode_prompts(target.tokenizer, [*positives, *negatives]), layer)

    def _map_tokens(self, fit: MapFit) -> int | None:
        """Target tokens of the corpus of a map; None for a map that was fitted before, on whatever corpus."""
        return None if fit.existing is not None else fit.data.states.text.target_tokens(fit.data.parts)
