"""Errors of models that cannot be loaded."""

from collections.abc import Collection

from lrt.errors import InvalidValue


class ModelNotLoadable(InvalidValue):
    """A model spec that cannot be loaded; the message says what is missing and how to fix it."""


def check_complete(path: str, missing: Collection[str]) -> None:
    """Raise `ModelNotLoadable` for missing tensors, which transformers would fill with random numbers."""
    if missing:
        raise ModelNotLoadable(
            f"the weights of model {path!r} are incomplete: {len(missing)} tensors are missing, the first is "
            f"{min(missing)}. Download the checkpoint again"
        )
