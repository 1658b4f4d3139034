"""Vectors and prompts of the package repeng: its `ControlVector` and `DatasetEntry`. Its files are GGUF.

`directions[l]` is added to the output of block `l`, times a coefficient.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from lrt.errors import InvalidValue
from lrt.steering.formats.directions import Norm, PackageMissing, directions_of, vectors_of
from lrt.steering.vectors import SteeringVector


def from_repeng(
    control: Any, *, model: str, behaviour: str = "", residual_norm: Norm = "stored"
) -> list[SteeringVector]:
    """Our vectors, ordered by block, of anything with `directions`, arrays by layer.

    Strength 1 adds each as coefficient 1 does there, unless a residual norm is given. repeng reads a model's
    last block after the final norm, and adds that direction before it.

    model  The model's name; the object holds its type alone.

    Raises InvalidValue for an object without directions, and what is no direction.
    """
    directions = getattr(control, "directions", None)
    if not isinstance(directions, Mapping):
        raise InvalidValue(
            f"a {type(control).__name__} has no directions by layer, as a ControlVector of repeng has"
        )
    return vectors_of(
        {layer: _tensor(direction) for layer, direction in directions.items()},
        source="a vector of repeng",
        model=model,
        behaviour=behaviour,
        residual_norm=residual_norm,
    )


def to_repeng(vectors: SteeringVector | Sequence[SteeringVector], model_type: str) -> Any:
    """repeng's `ControlVector` of one vector, or of one for each of several blocks of a model.

    Its coefficient is our strength. A `ControlModel` must be made for these layers.

    model_type  As `model.config.model_type` says; repeng compares it when vectors are added.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`), PackageMissing without the
    package repeng.
    """
    directions = {layer: d.numpy() for layer, d in directions_of(vectors, "a vector of repeng").items()}
    return _package("to_repeng").ControlVector(model_type=model_type, directions=directions)


def prompts_of_entries(entries: Iterable[Any]) -> tuple[list[str], list[str]]:
    """Positive and negative prompts of repeng's dataset entries, for extracting a vector here.

    Raises InvalidValue for an entry without two texts.
    """
    positives, negatives = [], []
    for number, entry in enumerate(entries, start=1):
        texts = getattr(entry, "positive", None), getattr(entry, "negative", None)
        if not all(isinstance(text, str) for text in texts):
            raise InvalidValue(f"dataset entry {number}, {entry!r:.80}, has no texts positive and negative")
        positives.append(str(texts[0]))
        negatives.append(str(texts[1]))
    return positives, negatives


def entries_of_prompts(positives: Sequence[str], negatives: Sequence[str]) -> list[Any]:
    """repeng's dataset entries of contrastive prompts, pair by pair.

    Raises InvalidValue for sides of unequal length, PackageMissing without the package repeng.
    """
    if len(positives) != len(negatives):
        raise InvalidValue(
            f"{len(positives)} positives, {len(negatives)} negatives: repeng reads pairs; give as many"
        )
    entry = _package("entries_of_prompts").DatasetEntry
    return [entry(positive=p, negative=n) for p, n in zip(positives, negatives, strict=True)]


def _tensor(direction: Any) -> Any:
    return torch.from_numpy(direction) if isinstance(direction, np.ndarray) else direction


def _package(function: str) -> Any:
    if find_spec("repeng") is None:
        raise PackageMissing(f"{function} needs the package repeng; install it: pip install repeng")
    return importlib.import_module("repeng")
