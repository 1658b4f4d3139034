"""Results as plain data and strict JSON: any reader can read the file, and it equals what is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` in dicts, lists, strings, numbers and None.

    Numpy and torch scalars become numbers, arrays lists, paths strings, and numbers that are not
    finite None (JSON lacks them). Raises TypeError naming the place of anything else.
    """
    return _plain(value, "results")


def to_json(value: Any) -> bytes:
    """Indented UTF-8 JSON, keys in their own order."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def leaves(data: Mapping[str, Any], separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by path, its parts joined by `separator`; an empty mapping has none."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{separator}{path}", leaf) for path, leaf in leaves(value, separator))
        else:
            yield str(key), value


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), where)
    raise TypeError(f"{where} is a {type(value).__name__}; a report is made from plain data only")
