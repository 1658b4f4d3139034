"""JSON that notices when it was altered: the contents beside their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


class Altered(ValueError):
    """Contents that are not those their digest was taken of."""


def canonical(value: Any) -> str:
    """JSON in one spelling: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sealed(contents: Mapping[str, Any]) -> str:
    """A file's text, with a digest of its own. Raises TypeError or ValueError for what JSON cannot hold."""
    plain = json.loads(json.dumps(contents, allow_nan=False))
    plain.pop(DIGEST, None)
    digest = hashlib.sha256(canonical(plain).encode()).hexdigest()
    return json.dumps({**plain, DIGEST: digest}, indent=1, sort_keys=True) + "\n"


def opened(text: str | bytes) -> dict[str, Any]:
    """What a file of `sealed` says, its digest with it. Raises ValueError for what is no JSON object."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def unsealed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The contents alone. Raises Altered."""
    contents = {key: value for key, value in found.items() if key != DIGEST}
    if hashlib.sha256(canonical(contents).encode()).hexdigest() != found.get(DIGEST):
        raise Altered("its contents do not match their digest")
    return contents
