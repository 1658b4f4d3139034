"""Errors of models that cannot be loaded."""

from collections.abc import Mapping
from typing import Any

from lrt.errors import InvalidValue


class ModelNotLoadable(InvalidValue):
    """A model spec that cannot be loaded; the message says what is missing and how to fix it."""


def check_complete(path: str, report: Mapping[str, Any]) -> None:
    """Raise `ModelNotLoadable` for tensors that are missing or of other shapes than the config's.

    report  transformers' loading info. It would fill such tensors with random numbers.
    """
    if missing := report["missing_keys"]:
        raise ModelNotLoadable(
            f"the weights of model {path!r} are incomplete: {len(missing)} tensors are missing, the first is "
            f"{min(missing)}. Download the checkpoint again"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ModelNotLoadable(
            f"the weights of model {path!r} do not fit its config: {len(mismatched)} tensors have another "
            f"shape, the first is {name}, {list(stored)} in the file and {list(expected)} by config.json. "
            "Use the config.json that belongs to the weights"
        )
