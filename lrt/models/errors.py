"""What can be wrong with a model, as the user's fault and with the user's remedy."""


class ModelNotLoadable(ValueError):
    """A spec names nothing that can be loaded; the message says what is missing and the fix_hint."""


def refuse_gaps(path: str, missing: set[str] | list[str]) -> None:
    """Raise `ModelNotLoadable` for missing tensors, which transformers fills with random numbers."""
    if missing:
        raise ModelNotLoadable(
            f"the weights of model {path!r} are not whole: {len(missing)} tensors are missing, the first "
            f"is {min(missing)}; fetch the checkpoint again"
        )
