"""Colours of the figures, light and dark, and the displayed names of conditions and behaviours."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Palette:
    """One hex colour per role. All colours of a palette differ, so that the page can swap them."""

    surface: str
    ink: str
    muted: str
    rule: str
    native: str
    transferred: str
    paper_literal: str
    source: str
    random: str
    untrained_source: str
    train: str
    optimum: str
    heat: str
    failed: str

    def roles(self) -> dict[str, str]:
        """Colours by role."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


LIGHT = Palette(
    surface="#fcfcfa",
    ink="#1d1c1a",
    muted="#6a6862",
    rule="#e3e1db",
    native="#d2691e",
    transferred="#2263c4",
    paper_literal="#8250c8",
    source="#12866f",
    random="#97948b",
    untrained_source="#b08a1e",
    train="#9db7e0",
    optimum="#c43d52",
    heat="#3478d4",
    failed="#b23a48",
)
DARK = Palette(
    surface="#171716",
    ink="#edece7",
    muted="#a5a299",
    rule="#383733",
    native="#ef9251",
    transferred="#6ba4f5",
    paper_literal="#b695ee",
    source="#4fc2a8",
    random="#85827a",
    untrained_source="#d9b44a",
    train="#40608f",
    optimum="#f07a8b",
    heat="#3d7fd9",
    failed="#ef7d8a",
)

# in the order of legends; dashes distinguish the lines where colours do not
CURVES: dict[str, tuple[str, str | tuple[int, tuple[float, ...]]]] = {
    "native": ("native", "-"),
    "transferred": ("transferred", "-"),
    "paper_literal": ("paper-literal", (0, (4, 2))),
    "source": ("source model, steered", (0, (1, 1.5))),
    "random": ("random direction", (0, (6, 2, 1, 2))),
    "untrained_source": ("untrained source", (0, (3, 1))),
}

CONDITIONS = {
    "none": "unsteered",
    "native": "native",
    "transferred": "transferred",
    "paper_literal": "paper-literal",
    "whole_corpus": "map of the whole corpus",
    "source": "source model, steered",
    "prompt": "plain prompt",
    "random": "random direction",
    "bias": "bias alone",
    "shuffled": "shuffled pairs",
    "other": "another behaviour",
    "untrained_source": "untrained source",
}


def condition_name(condition: str) -> str:
    """The displayed name of a condition."""
    return CONDITIONS.get(condition, condition.replace("_", " "))


def behaviour_name(name: str) -> str:
    """The displayed name of a behaviour."""
    return name.replace("_", " ")
