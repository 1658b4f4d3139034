"""Two runs side by side: every quantity with an interval, and which differences the intervals separate.

The interval of a difference follows from the two runs' own intervals, as of independent runs (MOVER, Zou and
Donner 2008, Statistics in Medicine 27). Runs on the same items agree more: their interval is too wide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrt.report.contents import Results
from lrt.report.dose_tables import dose_of
from lrt.report.palette import behaviour_name

Bounds = Sequence[float]


@dataclass(frozen=True)
class Difference:
    """One quantity of one behaviour in two runs.

    values     Of A and of B.
    bounds     Their 95% intervals.
    as_shares  Whether they are shown in percent.
    """

    behaviour: str
    quantity: str
    values: tuple[float, float]
    bounds: tuple[Bounds, Bounds]
    as_shares: bool

    @property
    def value(self) -> float:
        """B less A."""
        return self.values[1] - self.values[0]

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the difference."""
        (a, b), ((a_low, a_high), (b_low, b_high)) = self.values, self.bounds

        def spread(*sides: float) -> float:
            # an interval of refitted maps may lie beside its value
            return math.hypot(*(max(side, 0.0) for side in sides))

        return (
            self.value - spread(b - b_low, a_high - a),
            self.value + spread(b_high - b, a - a_low),
        )

    @property
    def separated(self) -> bool:
        """Whether the interval lies on one side of 0."""
        low, high = self.interval
        return low > 0 or high < 0


Reading = Callable[[Mapping[str, Any]], tuple[float | None, Bounds | None]]


def _shift(condition: str) -> Reading:
    """The change of the mean score by a vector, and its interval."""

    def read(b: Mapping[str, Any]) -> tuple[float | None, Bounds | None]:
        if b.get(condition) is None or b.get("unsteered") is None:
            return None, None
        return b[condition] - b["unsteered"], b.get(f"{condition}_change_ci")

    return read


# each with an interval of its own; whether they are shares
QUANTITIES: dict[str, tuple[Reading, bool]] = {
    "transfer ratio": (lambda b: (b.get("ratio"), b.get("ratio_ci")), True),
    "transfer ratio, with the map": (lambda b: (b.get("ratio"), b.get("ratio_ci_map")), True),
    "dose ratio": (
        lambda b: (dose_of(b, "transferred").get("ratio"), dose_of(b, "transferred").get("ci")),
        True,
    ),
    "curve share": (
        lambda b: (dose_of(b, "transferred").get("share"), dose_of(b, "transferred").get("share_ci")),
        True,
    ),
    "native change": (_shift("native"), False),
    "transferred change": (_shift("transferred"), False),
    "plain prompt / native": (lambda b: (b.get("prompt_ratio"), b.get("prompt_ratio_ci")), True),
    "slope ratio": (
        lambda b: (
            (b.get("propensity") or {}).get("slope_ratio"),
            (b.get("propensity") or {}).get("slope_ratio_ci"),
        ),
        True,
    ),
}


def differences(a: Results, b: Results) -> list[Difference]:
    """Every quantity that both runs have with an interval, of the behaviours of both."""
    found = []
    for name, (in_a, in_b) in shared_behaviours(a, b).items():
        for quantity, (read, as_shares) in QUANTITIES.items():
            (value_a, bounds_a), (value_b, bounds_b) = read(in_a), read(in_b)
            if value_a is None or value_b is None or not bounds_a or not bounds_b:
                continue
            if None not in (*bounds_a, *bounds_b):
                found.append(Difference(name, quantity, (value_a, value_b), (bounds_a, bounds_b), as_shares))
    return found


def comparison_headline(found: Sequence[Difference]) -> str:
    """How many differences the intervals separate."""
    if not found:
        return "No quantity has an interval in both runs."
    apart = sum(each.separated for each in found)
    return f"The intervals separate {apart} of {len(found)} differences between the two runs."


def separations(found: Sequence[Difference]) -> list[tuple[str, str]]:
    """Which differences are separated and which are not, each list by quantity."""
    compared = Counter(each.quantity for each in found)
    lists = []
    for separated, title in ((True, "Separated"), (False, "Not separated")):
        by_quantity: dict[str, list[str]] = {}
        for each in found:
            if each.separated is separated:
                by_quantity.setdefault(each.quantity, []).append(behaviour_name(each.behaviour))
        text = "; ".join(
            f"{quantity} of "
            + (f"all {len(names)}" if 2 < len(names) == compared[quantity] else ", ".join(names))
            for quantity, names in by_quantity.items()
        )
        lists.append((title, f"{text}." if text else "none."))
    return lists


def shared_behaviours(a: Results, b: Results) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The behaviours of both runs by name."""
    in_b = {each["name"]: each for each in b.get("behaviours") or []}
    return {
        each["name"]: (each, in_b[each["name"]]) for each in a.get("behaviours") or [] if each["name"] in in_b
    }
