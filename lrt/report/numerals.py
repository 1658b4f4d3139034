"""Numbers as text, the same in the page, in Markdown and in the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

MISSING = "–"
MINUS = "−"


def figure(value: float | None) -> str:
    """Three significant digits; integers with a thousands separator; None as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    size = abs(value)
    if size >= 99.95:
        text = f"{value:,.0f}"
    elif size >= 9.995:
        text = f"{value:.1f}"
    elif size >= 0.9995:
        text = f"{value:.2f}"
    elif size >= 0.00095 or size == 0:
        text = f"{value:.3f}"
    else:
        text = f"{value:.1e}"
    return text.replace("-", MINUS)


def score(value: float | None) -> str:
    """A score or a strength, two decimals."""
    if value is None:
        return MISSING
    return f"{round(value, 2) + 0.0:,.2f}".replace("-", MINUS)


def share(value: float | None) -> str:
    """A share in percent, one decimal below ten percent."""
    if value is None:
        return MISSING
    percent = 100 * value
    digits = 1 if 0.05 <= abs(percent) < 9.95 else 0
    # adding 0.0 turns a rounded -0 into 0
    return f"{round(percent, digits) + 0.0:,.{digits}f}%".replace("-", MINUS)


def share_interval(bounds: Sequence[float] | None) -> str:
    """`88 to 97%` of `[low, high]`."""
    if bounds is None:
        return MISSING
    low, high = (f"{round(100 * b) + 0.0:,.0f}".replace("-", MINUS) for b in bounds)
    return f"{low} to {high}%"


def interval(bounds: Sequence[float] | None) -> str:
    """`0.12 to 0.45` of `[low, high]`."""
    if bounds is None or any(bound is None for bound in bounds):
        return MISSING
    return " to ".join(map(score, bounds))


def count(value: float | None) -> str:
    """A large count with a unit: 3.1M, 14M, 820k."""
    if value is None:
        return MISSING
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{1 if scaled < 10 else 0}f}{unit}"
    return f"{value:.0f}"


def leading_number(text: str) -> float | None:
    """The number that a text of this module begins with, as `−3.1` of `−3.1 to 4.0`; None without one.

    `below`, `≥` and `≤` may stand before it.
    """
    parts = _LEADING.match(text)
    if parts is None:
        return None
    number = float(parts["number"].replace(",", "").replace(MINUS, "-"))
    return number * _UNITS.get(parts["unit"], 1.0)


_LEADING = re.compile(
    rf"(?:below |[≥≤] ?)?(?P<number>[+{MINUS}-]?\d[\d,]*(?:\.\d+)?(?:e[+{MINUS}-]?\d+)?)"
    r"(?P<unit>[%kMB]?)(?![\w.])"
)
_UNITS = {"%": 0.01, "k": 1e3, "M": 1e6, "B": 1e9}


def duration(seconds: float | None) -> str:
    """Seconds as `2.2 s`, `61 s`, `6 min 00 s` or `2 h 13 min`."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_layers(layers: Sequence[int]) -> str:
    """`layer 3` or `layers 0, 1, 2`."""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def layer_label(layers: Sequence[Any] | float | str | None) -> int | float | str | None:
    """The layers of one model in a sweep's row: a single one as it is, several as `0+1+2`; those of several
    source models as `0+1 | 2`.

    A value that is no sequence is returned as it is: a failed job may have any.
    """
    if layers is None or isinstance(layers, int | float | str):
        return layers
    if any(isinstance(layer, list | tuple) for layer in layers):
        return " | ".join(str(layer_label(layer)) for layer in layers)
    only: int | float | str = layers[0]
    return only if len(layers) == 1 else "+".join(map(str, layers))
