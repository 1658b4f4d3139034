"""Between `SteeringVector`s and what every format holds: one direction for each of some blocks.

A direction in a file is added as it is at the package's multiplier 1. Written, it is one median residual norm
long, so that the multiplier is our strength. Read, strength 1 adds it at its stored length, unless a residual
norm is given.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lrt.errors import InvalidValue, UserError
from lrt.steering.vectors import UNIT, SteeringVector, VectorUnreadable
from lrt.storage.tensor_files import floats

log = logging.getLogger(__name__)

STORED = "length in the file it was read from"

Norm = float | Mapping[int, float] | Literal["stored"]
"""What strength 1 adds: a vector of this length, of one length for each layer, or of its stored length."""


class PackageMissing(UserError, ImportError):
    """An optional package is not installed; the message names the command that installs it."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Name the file in what the body raises of its contents.

    Raises VectorUnreadable for ValueError (InvalidValue among them).
    """
    try:
        yield
    except VectorUnreadable:
        raise
    except ValueError as error:
        raise VectorUnreadable(f"cannot read {what} from {path}: {error}") from error


def vectors_of(
    directions: Mapping[int, Any],  # {layer: [d]}
    *,
    source: str,
    model: str,
    behaviour: str = "",
    residual_norm: Norm = "stored",
    unit: str = UNIT,
) -> list[SteeringVector]:
    """Steering vectors of the directions, ordered by block. Directions of zeros are skipped with a log line.

    source  Where they are from, for the method and the log: "a lm-eval file".
    unit    What a given residual norm is: of which statistic, over which states.

    Raises InvalidValue for layers that are no block's number, directions that are not finite floating `[d]`
    of one width, no direction but zeros, and a residual norm that is missing or not above 0.
    """
    if not isinstance(model, str) or not model:
        raise InvalidValue(f"model={model!r}: name the model that the vector was extracted from")
    vectors, zero, widths = [], [], set()
    for layer in directions:
        if type(layer) is not int or layer < 0:
            raise InvalidValue(f"layer {layer!r} must be the number of a block, from 0 on")
    for layer in sorted(directions):
        direction = floats(directions[layer], f"the direction of layer {layer}")
        if direction.ndim == 2 and len(direction) == 1:
            direction = direction[0]
        # a view would keep the whole file's numbers, and an expanded one changes with itself
        direction = direction.clone()
        widths.add(tuple(direction.shape))
        vector = SteeringVector(
            direction,
            layer,
            model,
            0.0,
            behaviour,
            method=f"read from {source}",
            unit=STORED if residual_norm == "stored" else unit,
        )
        if not direction.any():
            zero.append(layer)
            continue
        vectors.append(_with_norm(vector, residual_norm))
    if len(widths) > 1:
        raise InvalidValue(f"its directions have different shapes, {sorted(widths)}")
    if not vectors:
        raise InvalidValue("it has no direction that is not zero")
    if zero:
        log.info("%s: directions of blocks %s are zero and were skipped", source, zero)
    return vectors


def _with_norm(vector: SteeringVector, residual_norm: Norm) -> SteeringVector:
    if residual_norm == "stored":
        return replace(vector, residual_norm=float(vector.direction.double().norm()))
    norm = residual_norm.get(vector.layer) if isinstance(residual_norm, Mapping) else residual_norm
    if isinstance(norm, bool) or not isinstance(norm, int | float) or not norm > 0:
        raise InvalidValue(
            f"residual_norm={norm!r} of layer {vector.layer}: it must be the residual stream's norm there, "
            "above 0, or 'stored': strength 1 then adds the direction at its stored length"
        )
    return replace(vector, residual_norm=float(norm))


def directions_of(
    vectors: SteeringVector | Sequence[SteeringVector], what: str
) -> dict[int, Tensor]:  # {layer: [d] float32, one residual norm long}
    """What strength 1 adds at each block.

    what  The file or object that is made, for messages: "a control vector".

    Raises InvalidValue for none, two of one block, several models, behaviours or widths, an operation other
    than adding, and a vector that adds nothing at any strength.
    """
    vectors = listed(vectors)
    layers = [vector.layer for vector in vectors]
    if not vectors:
        raise InvalidValue(f"{what} needs at least one steering vector; got none")
    if len(set(layers)) < len(layers):
        raise InvalidValue(f"{what} must have one direction a block; got blocks {layers}")
    kinds = {(vector.model, vector.behaviour, len(vector.direction)) for vector in vectors}
    if len(kinds) > 1:
        raise InvalidValue(
            f"{what} must have one model and behaviour; got (model, behaviour, width) {sorted(kinds)}"
        )
    if other := [vector.operation for vector in vectors if vector.operation != "add"]:
        raise InvalidValue(f"operation={other[0]!r}: {what} can only be added")
    for vector in vectors:
        if not vector.residual_norm > 0:
            raise InvalidValue(f"{vector!r} has residual_norm=0, so its direction in the file would be zero")
    return {vector.layer: vector.scaled().float().cpu() for vector in sorted(vectors, key=lambda v: v.layer)}


def listed(vectors: SteeringVector | Sequence[SteeringVector]) -> list[SteeringVector]:
    """One vector or several, as a list."""
    return [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
