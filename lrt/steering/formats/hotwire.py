"""Files of hotwire-vllm: a `.pt` with one `[blocks, d]` table or one `[d]` vector, and norms by layer.

A request names a file, a layer and a scale: `{"id": "french", "layer": 18, "scale": 0.4}`. Row `l`, or the
one vector, is added to the output of block `l`. Source: `hotwire/_state.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.steering.formats.directions import Norm, directions_of, reading, vectors_of
from lrt.steering.vectors import UNIT, SteeringVector, VectorUnreadable
from lrt.storage.durable import write_durably
from lrt.storage.tensor_files import floats, read_torch
from lrt.storage.text_files import read_json

MOST_BLOCKS = 10_000
MEAN_NORM = "mean residual norm of hotwire's norms file"


def read_hotwire(
    path: Path,
    *,
    model: str,
    layer: int | None = None,
    norms: Path | None = None,
    behaviour: str = "",
    residual_norm: Norm = "stored",
) -> list[SteeringVector]:
    """Read a table's rows that are not zero, ordered by block, or a file's one vector.

    Strength 1 adds a row as scale 1 does there, unless norms are given.

    layer  Of a `[d]` vector its block, which the file does not say. Of a table the one row to read.
    norms  hotwire's norms file (`HOTWIRE_H_NORMS`): strength 1 then adds one mean residual norm, as its
           relative dose 1 does. Vectors extracted here use the median.

    Raises TensorsUnreadable, FileUnreadable and VectorUnreadable naming the file and the fault, such as a
    layer that is missing or not in the table, InvalidValue for norms given twice.
    """
    unit = UNIT
    if norms is not None:
        if residual_norm != "stored":
            raise InvalidValue(f"norms={norms} and residual_norm={residual_norm!r}: give one of the two")
        residual_norm, unit = read_hotwire_norms(norms), MEAN_NORM
    contents = read_torch(path)
    with reading(path, "a hotwire file"):
        if isinstance(contents, dict):
            if len(contents) != 1:
                raise InvalidValue(f"it is a dict of {len(contents)} entries, of which hotwire takes any one")
            (contents,) = contents.values()
        table = floats(contents, "the table")
        return vectors_of(
            _rows(table, layer),
            source="a hotwire file",
            model=model,
            behaviour=behaviour,
            residual_norm=residual_norm,
            unit=unit,
        )


def read_hotwire_norms(path: Path) -> dict[int, float]:
    """Mean residual norms by layer: `{"20": 54.9}`, or the same under the key `h_norms`.

    Raises FileUnreadable for what is not JSON, VectorUnreadable for what is no such table.
    """
    contents = read_json(Path(path))
    if isinstance(contents, dict) and isinstance(contents.get("h_norms"), dict):
        contents = contents["h_norms"]
    if not isinstance(contents, dict) or not contents:
        raise VectorUnreadable(f'{path} is not a table of norms by layer, as {{"20": 54.9}}')
    norms = {}
    for name, norm in contents.items():
        number = isinstance(norm, int | float) and not isinstance(norm, bool)
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and number and norm > 0):
            raise VectorUnreadable(
                f"{path}: {name!r:.80}: {norm!r:.80} must be a layer's number and its norm"
            )
        norms[int(name)] = float(norm)
    return norms


def write_hotwire(vectors: SteeringVector | Sequence[SteeringVector], path: Path, *, depth: int) -> None:
    """Write a table with a row for each block of the model, zero where there is no vector.

    Its scale is our strength. The file's name without `.pt` is the id of requests.

    depth  Number of blocks of the model.

    Raises InvalidValue for vectors that cannot be put together (`directions_of`), a block that the model
    lacks, and a path that does not end in `.pt`.
    """
    directions, path = directions_of(vectors, "a hotwire file"), Path(path)
    if path.suffix != ".pt":
        raise InvalidValue(f"{path} must end in .pt: hotwire loads no other")
    if type(depth) is not int or not max(directions) < depth <= MOST_BLOCKS:
        raise InvalidValue(
            f"depth={depth!r} must be the model's number of blocks, above {max(directions)} and at most "
            f"{MOST_BLOCKS}"
        )
    table = torch.zeros(depth, len(next(iter(directions.values()))))
    for layer, direction in directions.items():
        table[layer] = direction
    write_durably(path, lambda temporary: torch.save(table, temporary))


def _rows(table: Tensor, layer: int | None) -> dict[int, Tensor]:
    if table.ndim == 1:
        if layer is None:
            raise InvalidValue("layer= is missing: the file holds one vector and does not say its block")
        return {layer: table}
    if table.ndim != 2 or not 0 < len(table) <= MOST_BLOCKS:
        raise InvalidValue(f"its shape {list(table.shape)} must be [blocks, d] or [d]")
    if layer is None:
        return dict(enumerate(table))
    if type(layer) is not int or not 0 <= layer < len(table):
        raise InvalidValue(f"layer={layer!r}: the table has the layers 0 to {len(table) - 1}")
    return {layer: table[layer]}
