"""A study whose every figure is known, without a model."""

from collections.abc import Mapping

import numpy as np

from lrt.evaluation import Behaviour, Damage, Measurement, StrengthChoice, StrengthGrid, Study

GRID = StrengthGrid((-1.0, 0.0, 0.5, 1.0), damage_limit=0.1)
CHANGES = {"native": 2.0, "transferred": 1.6, "paper_literal": 0.4, "random": 0.1, "source": 1.0}
POINTS = {"bias": (0.2,), "shuffled": (0.2, -0.4), "other": (0.6,), "untrained_source": (0.0,)}


def planted_study(
    behaviour: Behaviour,
    *,
    chosen: float = 1.0,
    damaged: bool = False,
    changes: Mapping[str, float] = CHANGES,
    points: Mapping[str, tuple[float, ...]] | None = None,
    noise: float = 0.0,
    damage: float = 0.02,
    curves: Mapping[str, tuple[float, ...]] | None = None,
    refits: tuple[float, ...] = (1.5, 1.6, 1.7),
    seed: int = 0,
) -> Study:
    """Scores `3 + i / 10 + strength * change`, read off logits with their logistic probabilities.

    points  Changes of the draws of a null at the chosen strength; `curves` at every positive one.
    refits  Changes of the draws of `resampled` there.
    """
    rng = np.random.default_rng(seed)
    items = behaviour.test
    rows: list[Measurement] = []

    def add(condition: str, strength: float, change: float, draw: int = 0, split: str = "test") -> None:
        for index, item in enumerate(items if split == "test" else behaviour.development):
            value = 3 + index / 10 + strength * change + noise * rng.normal()
            share = float(1 / (1 + np.exp(-value))) if behaviour.reads_logits else None
            text = None if behaviour.reads_logits else f"{condition} {strength} {index}"
            rows.append(
                Measurement(
                    behaviour.name, split, condition, draw, strength, item.id, item.key, value, share, text
                )
            )

    for strength in GRID.strengths:
        add("native", strength, 99.0, split="development")  # never to be read in a summary
        add("source", strength, changes["source"])
    add("none", 0.0, 0.0)
    for strength in (s for s in GRID.strengths if s):
        for condition in ("native", "transferred", "paper_literal", "random"):
            add(condition, strength, changes[condition])
    for condition, draws in {**POINTS, **(points or {}), **(curves or {})}.items():
        for draw, change in enumerate(draws):
            add(condition, chosen, change, draw)
    for condition, draws in (curves or {}).items():
        for draw, change in enumerate(draws):
            for strength in (s for s in GRID.strengths if s > 0 and s != chosen):
                add(condition, strength, change, draw)
    for draw, change in enumerate(refits):
        add("resampled", chosen, change, draw)
        add("resampled_native", chosen, changes["native"], draw)
    add("prompt", 0.0, 0.0)
    for draw in range(4):
        add("native_half", chosen, changes["native"], draw)
        add("transferred_half", chosen, changes["transferred"], draw)
    damages = [
        Damage(behaviour.name, condition, 0, s, 2 + 2 * damage * abs(s), 2 * damage * abs(s), 0.01)
        for condition in ("native", "transferred")
        for s in GRID.strengths
    ]
    return Study(behaviour.name, StrengthChoice(chosen, 2.0, damaged, 2), tuple(rows), tuple(damages))
