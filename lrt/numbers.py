"""Numbers as arguments of the library."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from lrt.errors import InvalidValue


def finite(name: str, value: Any) -> float:
    """A finite number. Raises InvalidValue that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidValue(f"{name}={value!r} must be a finite number")
    return float(value)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`. Raises InvalidValue that names it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InvalidValue(f"{name}={value!r}; it must be a whole number, at least {least}")
    return int(value)
