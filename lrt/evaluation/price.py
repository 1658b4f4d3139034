"""Cost on the target and effect of a vector: from few native pairs, and by a map, which costs once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrt.evaluation.behaviours import Behaviour, ItemSplit
from lrt.evaluation.choice import Chosen, StrengthGrid
from lrt.evaluation.equal_damage import strength_at_damage
from lrt.evaluation.few_shot import ALL_NATIVE, ALL_TRANSFERRED, condition
from lrt.evaluation.journal import Journal
from lrt.evaluation.measuring import UNSTEERED, SteeringCondition
from lrt.evaluation.resumable import Progress, ResumableMeasuring
from lrt.evaluation.score_table import ScoreMissing
from lrt.evaluation.statistics import DRAWS, Array, mean_estimate, resamples

REACH = 2.0
"""Strengths at which damage is compared: from the chosen one over this to the chosen one times this."""
DAMAGE_TEXTS = 32
"""Damage texts of a behaviour that are read, half of them of each split."""


@dataclass(frozen=True)
class PricedScores:
    """Scores of the items under each condition, at the chosen strength and at equal damage.

    chosen, equal_damage  By condition `[draws, items]`; the latter None where the native vector does no
                          damage at the chosen strength.
    strengths  By condition, the strength at which its damage is that of the native vector.
    damage     Of the native vector at the chosen strength.
    keys       Of the items.
    """

    chosen: Mapping[str, Array]
    equal_damage: Mapping[str, Array] | None
    strengths: Mapping[str, float]
    damage: float
    keys: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """Plain data."""

        def lists(scores: Mapping[str, Array] | None) -> dict[str, Any] | None:
            return None if scores is None else {name: array.tolist() for name, array in scores.items()}

        return {
            "chosen": lists(self.chosen),
            "equal_damage": lists(self.equal_damage),
            "strengths": dict(self.strengths),
            "damage": self.damage,
            "keys": list(self.keys),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PricedScores:
        """What `to_data` wrote."""

        def arrays(scores: Mapping[str, Any] | None) -> dict[str, Array] | None:
            return None if scores is None else {name: np.array(rows) for name, rows in scores.items()}

        chosen = arrays(data["chosen"])
        assert chosen is not None
        return cls(
            chosen, arrays(data["equal_damage"]), data["strengths"], data["damage"], tuple(data["keys"])
        )


def price_scores(
    chosen: Chosen,
    behaviour: Behaviour,
    vectors: Mapping[str, Sequence[Tensor]],  # condition -> draws of [d_target], of any length
    grid: StrengthGrid,
    split: ItemSplit,
    *,
    temperature: float,
    max_rows: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> PricedScores:
    """Score every item of a split under each vector: at the chosen strength, and where it does as much damage
    as the native vector from all pairs does there (the condition `ALL_NATIVE`).

    The damage of a condition is that of its first draw, at the grid's strengths within a factor `REACH` of
    the chosen one. One that does less damage at all of them is taken at the largest.

    progress  Called with the number of rows done, of at most `price_rows`.

    Raises ScoreMissing where no item has a score under every condition.
    """
    strength, sign, model = chosen.choice.strength, behaviour.direction, chosen.model
    units = {
        name: [torch.nn.functional.normalize(draw.float(), dim=0) for draw in draws]
        for name, draws in vectors.items()
    }
    fewer = replace(behaviour, damage_texts=behaviour.damage_texts[:DAMAGE_TEXTS])
    measuring = ResumableMeasuring(fewer, split, temperature, max_rows, progress, journal or Journal())
    tried = [s for s in grid.strengths if strength / REACH <= s <= strength * REACH]
    damages = measuring.damaged(
        "price",
        model,
        [each for name, draws in units.items() for each in model.conditions(name, draws[0], tried, sign)],
    )
    curves = {name: [(d.strength, d.relative) for d in damages if d.condition == name] for name in units}
    level = dict(curves[ALL_NATIVE])[strength]
    equal = {}
    if 0 < level < math.inf:
        equal = {name: strength_at_damage(curve, level) for name, curve in curves.items()}
        equal[ALL_NATIVE] = strength

    conditions = [SteeringCondition(UNSTEERED, 0.0, torch.zeros(model.lm.width))]
    for name, draws in units.items():
        for draw, unit in enumerate(draws):
            strengths = sorted({strength, equal.get(name, strength)})
            conditions += model.conditions(name, unit, strengths, sign, draw)
    items = behaviour.items_of(split)
    rows = measuring.measured("price", model, items, conditions)
    values = {(row.condition, row.draw, row.strength, row.item): row.value for row in rows}
    missing = {row.item for row in rows if math.isnan(row.value)}
    scored = [item for item in items if item.id not in missing]
    if not scored:
        raise ScoreMissing(behaviour.name, split)

    def scores(strengths: Mapping[str, float]) -> dict[str, Array]:
        none = np.array([[values[UNSTEERED, 0, 0.0, item.id] for item in scored]])
        return {UNSTEERED: none} | {
            name: np.array(
                [
                    [values[name, draw, strengths[name], item.id] for item in scored]
                    for draw in range(len(draws))
                ]
            )
            for name, draws in units.items()
        }

    return PricedScores(
        scores(dict.fromkeys(units, strength)),
        scores(equal) if equal else None,
        equal,
        level,
        tuple(item.key for item in scored),
    )


def price_rows(behaviour: Behaviour, vectors: Mapping[str, Sequence[Tensor]], split: ItemSplit) -> int:
    """Rows (item x condition) of `price_scores`, at most."""
    return (1 + 2 * sum(map(len, vectors.values()))) * len(behaviour.items_of(split))


@dataclass(frozen=True)
class Shares:
    """Changes by condition, as shares of the change by the native vector from all pairs.

    values   By condition, the mean over draws and items.
    samples  By condition `[2000]`: items drawn with replacement, and a deviation for the draws of the pairs.
    """

    values: Mapping[str, float]
    samples: Mapping[str, Array]

    def interval(self, name: str) -> list[float]:
        """95% interval over items and draws of the pairs."""
        return [float(bound) for bound in np.percentile(self.samples[name], [2.5, 97.5])]


def shares_of(
    scores: Mapping[str, Array], keys: Sequence[str], direction: int, seed: int = 0
) -> Shares | None:
    """The shares of all conditions. None where the native vector from all pairs has no effect in the intended
    direction whose interval is off zero.

    A draw's deviation is t-distributed with `draws - 1` degrees of freedom and the standard error of the
    draws' means, since draws are few.
    """
    none = scores[UNSTEERED]
    changes = {name: score - none for name, score in scores.items() if name != UNSTEERED}  # [draws, items]
    native = changes[ALL_NATIVE][0]
    moved = mean_estimate(native, seed, keys)
    if not moved.off_zero or moved.value * direction <= 0:
        return None
    items = resamples(len(native), seed, keys=keys)
    whole = native[items].mean(axis=1)
    usable = whole * direction > 0
    rng = np.random.default_rng((seed, DRAWS))
    values, samples = {}, {}
    for name, change in changes.items():
        means = change.mean(axis=1)  # of each draw
        values[name] = float(means.mean() / moved.value)
        sampled = change.mean(axis=0)[items].mean(axis=1)
        if len(means) > 1:
            error = means.std(ddof=1) / math.sqrt(len(means))
            sampled = sampled + error * rng.standard_t(len(means) - 1, size=len(sampled))
        samples[name] = sampled[usable] / whole[usable]
    return Shares(values, samples)


@dataclass(frozen=True)
class BreakEven:
    """From how many vectors on a map costs the target fewer tokens than native vectors of equal effect.

    pairs     Contrastive pairs of a native vector of equal effect; None where the transferred one has none.
    tokens    Target tokens of that native vector.
    vectors   The smallest number of vectors from which on the map is cheaper; None: never.
    interval  95% interval of `vectors`; None at its upper end: never.
    bound     `at least` where the fewest pairs tried do as much already; `at most` where even all pairs do
              less.
    """

    pairs: int | None
    tokens: int | None
    vectors: int | None
    interval: tuple[int | None, int | None]
    bound: str = ""


def break_even(
    shares: Shares,
    tokens: Mapping[int, float],  # pairs -> target tokens of a native vector from so many
    all_pairs: int,
    map_tokens: int,
) -> BreakEven:
    """When a map pays: `k` vectors cost `map_tokens` once, or `k` times the tokens of a native vector.

    The native vector of equal effect is from the fewest pairs, of those measured, whose mean effect is at
    least that of the transferred vector from all pairs. `k` is the smallest number with
    `map_tokens < k * tokens of that vector`. It is never reached where the interval of the transferred effect
    includes zero or lies below: no pairs at all do as much.

    tokens  Of every count that was measured, and of all pairs.
    """
    counts = sorted(count for count in tokens if condition("native", count) in shares.values)

    def pairs_of(native: Mapping[int, float], transferred: float) -> int:
        return next((count for count in counts if native[count] >= transferred), all_pairs)

    def vectors_of(pairs: int) -> int:
        return math.floor(map_tokens / tokens[pairs]) + 1

    names = {count: condition("native", count) for count in counts}
    works = shares.interval(ALL_TRANSFERRED)[0] > 0
    ours = shares.values[ALL_TRANSFERRED]
    pairs = pairs_of({count: shares.values[name] for count, name in names.items()}, ours)
    sampled = []
    for i, each in enumerate(shares.samples[ALL_TRANSFERRED]):
        reached = pairs_of({count: shares.samples[name][i] for count, name in names.items()}, each)
        sampled.append(vectors_of(reached) if each > 0 else math.inf)
    low, high = np.percentile(sampled, [2.5, 97.5], method="nearest")
    interval = tuple(None if math.isinf(bound) else int(bound) for bound in (low, high))
    assert len(interval) == 2
    if not works:
        return BreakEven(None, None, None, (interval[0], None))
    bound = ""
    if ours > 1 and pairs == all_pairs:
        bound = "at most"
    elif pairs == min({*counts, all_pairs}):
        bound = "at least"
    return BreakEven(pairs, round(tokens[pairs]), vectors_of(pairs), interval, bound)
