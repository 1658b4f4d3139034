"""Vectors of the package steering-vectors: its `SteeringVector`, and a file of one.

`layer_activations[l]` is added to the output of block `l`, times a multiplier. The package has no file
format; what people have is `torch.save` of the object or of its two fields.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lrt.errors import InvalidValue
from lrt.steering.formats.directions import Norm, PackageMissing, directions_of, reading, vectors_of
from lrt.steering.vectors import SteeringVector
from lrt.storage.durable import write_durably
from lrt.storage.tensor_files import read_torch

BLOCK_OUTPUT = "decoder_block"
_FIELDS = ("layer_activations", "layer_type")
SOURCE = "a vector of steering-vectors"


# takes the attributes of a pickled object of the package, whose code never runs
_STAND_IN = type("SteeringVector", (), {"__module__": "steering_vectors.steering_vector"})


def from_steering_vectors(
    vector: Any, *, model: str, behaviour: str = "", residual_norm: Norm = "stored"
) -> list[SteeringVector]:
    """Our vectors, ordered by block, of an object or dict with `layer_activations` and `layer_type`.

    Strength 1 adds each as multiplier 1 does there, unless a residual norm is given.

    Raises InvalidValue for an object without these, a `layer_type` other than a block's output, and what is
    no direction.
    """
    fields = (
        vector if isinstance(vector, Mapping) else {name: getattr(vector, name, None) for name in _FIELDS}
    )
    activations, layer_type = (fields.get(name) for name in _FIELDS)
    if not isinstance(activations, Mapping):
        raise InvalidValue(
            "it has no layer_activations by layer, as a SteeringVector of steering-vectors has"
        )
    if layer_type != BLOCK_OUTPUT:
        raise InvalidValue(
            f"layer_type={layer_type!r}: only vectors of a block's output ({BLOCK_OUTPUT!r}) can be used; "
            "train it on that"
        )
    return vectors_of(
        activations, source=SOURCE, model=model, behaviour=behaviour, residual_norm=residual_norm
    )


def to_steering_vectors(vectors: SteeringVector | Sequence[SteeringVector]) -> Any:
    """The package's `SteeringVector` of one vector, or of one for each of several blocks of a model.

    Its multiplier is our strength.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`), PackageMissing without the
    package steering-vectors.
    """
    if find_spec("steering_vectors") is None:
        raise PackageMissing(
            "to_steering_vectors needs the package steering-vectors; install it: pip install steering-vectors"
        )
    package = importlib.import_module("steering_vectors")
    return package.SteeringVector(
        layer_activations=directions_of(vectors, "a vector of steering-vectors"), layer_type=BLOCK_OUTPUT
    )


def read_steering_vectors(
    path: Path, *, model: str, behaviour: str = "", residual_norm: Norm = "stored"
) -> list[SteeringVector]:
    """Read what `torch.save` wrote of a `SteeringVector` of the package, or of a dict of its fields.

    The package need not be installed, and none of its code runs.

    Raises TensorsUnreadable and VectorUnreadable naming the file and the fault.
    """
    contents = read_torch(path, [_STAND_IN])
    with reading(path, SOURCE):
        return from_steering_vectors(contents, model=model, behaviour=behaviour, residual_norm=residual_norm)


def write_steering_vectors(vectors: SteeringVector | Sequence[SteeringVector], path: Path) -> None:
    """Write the fields of a `SteeringVector` of the package with `torch.save`.

    Its multiplier is our strength. Read there by `SteeringVector(**torch.load(path, weights_only=True))`.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`).
    """
    directions = directions_of(vectors, "a vector of steering-vectors")
    fields = {"layer_activations": directions, "layer_type": BLOCK_OUTPUT}
    write_durably(Path(path), lambda temporary: torch.save(fields, temporary))
