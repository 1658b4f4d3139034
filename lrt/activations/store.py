"""The paired store: shards of rows, each row both models' states at one token, and a manifest.

A shard is one safetensors file of whole blocks of one split. Row `i` of every tensor in it is the
same token:

    source.{layer} [rows, d_source], target.{layer} [rows, d_target]   in the dtype the models ran in
    norm.source.{layer}, norm.target.{layer} [rows]                    float32, Euclidean
    token, position, group [rows] int32; document [rows] int64

or, of states in a byte an entry, `source.{layer}` in int8 beside what makes states of it (`quantised`).

Opening checks every file's size and header, which finds missing, cut and grown files; `verify`
reads the contents too, since safetensors does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.activations.errors import StoreCorrupt, StoreForeign, StoreMissing
from lrt.activations.manifest import (
    Manifest,
    RecordingPlan,
    Shard,
    Side,
    check_same_plan,
)
from lrt.activations.quantised import Quantised
from lrt.corpora.splits import Split

MANIFEST = "manifest.json"


class ShardReader:
    """Runs of rows out of one shard, mapped into memory.

    By hand rather than by safetensors' `get_slice`, which (0.8) leaks its bounds at every call: a
    few bytes that grow with the rows read.
    """

    def __init__(self, path: Path, plan: RecordingPlan) -> None:
        header, begin = _header(path)
        self._path, self._begins = path, dict[str, int]()
        size = path.stat().st_size
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        tensors: dict[str, Tensor] = {}
        for name, column in plan.tensors.items():
            start, stop = (begin + int(offset) for offset in header[name]["data_offsets"])
            # a copy where the file's layout leaves it at an odd place: few are, and they are small
            flat = mapped[start:stop]
            if start % column.dtype.itemsize:
                flat = flat.clone()
            tensors[name] = flat.view(column.dtype).view(header[name]["shape"])
            self._begins[name] = start
        self._columns: dict[str, Tensor | Quantised] = {}
        for name, column in plan.columns.items():
            self._columns[name] = tensors[name]
            if column.width and plan.states == "int8":
                step, massive, where = (tensors[f"{name}.{part}"] for part in ("step", "massive", "where"))
                self._columns[name] = Quantised(tensors[name], step, massive, where, tensors[f"norm.{name}"])

    def whole(self, column: str) -> Tensor:
        """All rows of a column that lies in the file as it is, as a view of it: copy before writing."""
        found = self._columns[column]
        if isinstance(found, Quantised):
            raise TypeError(f"{column} is kept in a byte an entry; it is made row by row")
        return found

    def announce(self, columns: Sequence[str], runs: Iterable[tuple[int, int]]) -> None:
        """Has the system read runs of rows of some columns ahead, in its own time, where it takes such
        hints."""
        if not hasattr(os, "posix_fadvise"):
            return
        each = {column: self.whole(column)[0].nbytes for column in columns}
        with self._path.open("rb") as file:
            for (start, stop), (column, size) in product(runs, each.items()):
                begin = self._begins[column] + start * size
                os.posix_fadvise(file.fileno(), begin, (stop - start) * size, os.POSIX_FADV_WILLNEED)

    def rows(self, column: str, start: int, stop: int) -> Tensor:  # [stop - start, ...]
        """Rows `start` to `stop` of a column, as a view of the file if it can be: copy before writing."""
        found = self._columns[column]
        return found.rows(start, stop) if isinstance(found, Quantised) else found[start:stop]


class ActivationStore:
    """A complete store, opened for reading. Holds paths and the manifest only: cheap to copy."""

    def __init__(self, folder: Path, manifest: Manifest, fix_hint: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fix_hint = fix_hint

    @classmethod
    def open(
        cls, folder: str | Path, expect: RecordingPlan | None = None, fix_hint: str | None = None
    ) -> ActivationStore:
        """Opens the store in `folder` after checking each file's size and header.

        `expect` is what the caller needs the store to hold. `fix_hint` ends every error message: the
        command that makes the store again.

        Raises:
            StoreMissing: there is no manifest (nothing recorded, or a recording not finished).
            StoreCorrupt: a file is missing, of another size, or its header or the manifest is
            altered.
            StoreForeign: the store is whole but holds something else than `expect`.
        """
        folder = Path(folder)
        fix_hint = fix_hint or _mend(folder)
        manifest = cls.manifest_of(folder, fix_hint)
        if expect is not None:
            check_same_plan(manifest.plan.as_json(), expect.as_json(), str(folder), fix_hint, layout=False)
        store = cls(folder, manifest, fix_hint)
        store.verify()
        return store

    @staticmethod
    def manifest_of(folder: Path, fix_hint: str | None = None) -> Manifest:
        """What a store says of itself, its files not looked at. Raises StoreMissing, StoreCorrupt and
        StoreForeign (of another format) as `open`.
        """
        fix_hint = fix_hint or _mend(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise StoreMissing(f"{folder} holds no complete activation store (no {MANIFEST}); {fix_hint}")
        try:
            return Manifest.loads(path.read_text(encoding="utf-8"), str(path), fix_hint)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(f"{path} is corrupt: {error}; {fix_hint}") from error

    @property
    def plan(self) -> RecordingPlan:
        return self.manifest.plan

    def shards(self, split: Split) -> list[Shard]:
        """The split's shards in the order of its rows."""
        return [shard for shard in self.manifest.shards if shard.split == split]

    def rows(self, split: Split) -> int:
        return self.manifest.rows(split)

    def width(self, side: Side) -> int:
        return self.plan.side(side).width

    def median_norm(self, side: Side, layer: int) -> float:
        """Median Euclidean norm over the train rows, position 0 left out."""
        return self.manifest.median_norms[self.column(side, layer)]

    def column(self, side: Side, layer: int) -> str:
        """Name of a side's states at a layer; StoreForeign where that layer was not recorded."""
        layers = self.plan.side(side).layers
        if layer not in layers:
            raise StoreForeign(
                f"{self.folder} holds {side} layers {list(layers)}, not layers.{side}={layer}; {self.fix_hint}"
            )
        return f"{side}.{layer}"

    def reader(self, shard: Shard) -> ShardReader:
        """Opens one shard; any thread or process may, at the same time.

        Raises StoreCorrupt where it cannot be mapped.
        """
        path = self.folder / shard.file
        try:
            reader = ShardReader(path, self.plan)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise StoreCorrupt(f"{path} cannot be read: {error}; {self.fix_hint}") from error
        return reader

    def stream(
        self, split: Split, columns: Sequence[str], rows_at_once: int = 2**16
    ) -> Iterator[dict[str, Tensor]]:
        """The split's rows in order, as dicts of the columns asked for; memory is
        `rows_at_once`.
        """
        for shard in self.shards(split):
            reader = self.reader(shard)
            for start in range(0, shard.rows, rows_at_once):
                stop = min(start + rows_at_once, shard.rows)
                yield {name: reader.rows(name, start, stop) for name in columns}

    def verify(self, full: bool = False) -> None:
        """Checks sizes and headers of all shards; `full` compares every file's sha256 too, and its tokens
        with those that the manifest says both models read.

        Raises StoreCorrupt that names the first bad file.
        """
        for shard in self.manifest.shards:
            check_shard(self.folder, shard, self.plan, self.fix_hint, full=full)
            # stores that were recorded before their manifests listed tokens have the files' digests alone
            if (
                full
                and shard.tokens
                and token_digest(self.reader(shard).rows("token", 0, shard.rows)) != shard.tokens
            ):
                raise StoreCorrupt(
                    f"{self.folder / shard.file} is corrupt: its tokens are not those that the manifest "
                    f"lists; {self.fix_hint}"
                )


def _mend(folder: Path) -> str:
    return f"delete the folder {folder} and run the command again: it records anew"


def check_shard(folder: Path, shard: Shard, plan: RecordingPlan, fix_hint: str, *, full: bool) -> None:
    """Raises StoreCorrupt unless the shard's file is as the entry and the plan say."""
    path = folder / shard.file

    def corrupt(reason: str) -> StoreCorrupt:
        return StoreCorrupt(f"{path} is corrupt: {reason}; {fix_hint}")

    if not path.is_file():
        raise corrupt("the file is not there")
    size = path.stat().st_size
    if size != shard.bytes:
        raise corrupt(f"it has {size} bytes and should have {shard.bytes}")
    try:
        header, _ = _header(path)
    except ValueError as error:
        raise corrupt(f"its header cannot be read ({error})") from error
    wanted = plan.tensors
    found = {
        name: (entry.get("dtype"), entry.get("shape"))
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict)
    }
    for name in sorted({*wanted, *found}):
        column, (dtype, shape) = wanted.get(name), found.get(name, (None, None))
        if column is None or dtype != column.safetensors_name or not column.fits(shape, shard.rows):
            told = None if column is None else (column.safetensors_name, column.shape(shard.rows))
            raise corrupt(f"{name} is {found.get(name)} and should be {told}")
    if full and file_digest(path) != shard.sha256:
        raise corrupt("its contents do not match the sha256 in the manifest")


def token_digest(tokens: Tensor) -> str:
    """sha256 of token ids `[n]`, int32."""
    return hashlib.sha256(tokens.contiguous().numpy().tobytes()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(path: Path) -> tuple[Mapping[str, Any], int]:
    """The JSON header of a safetensors file (length as 8 little-endian bytes, then the JSON), and
    where the data begins."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError(f"a header of {length} bytes does not fit the file")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    return header, 8 + length
