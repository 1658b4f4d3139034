"""The store of recorded hidden states: a manifest, and shards with both models' states at every token.

A shard is one safetensors file of whole sequences of one split. Entry `i` of every tensor in it is the same
token:

    source.{layer} [tokens, d_source], target.{layer} [tokens, d_target]   in the dtype the models ran in
    norm.source.{layer}, norm.target.{layer} [tokens]                      float32, Euclidean
    token, position, group [tokens] int32; document [tokens] int64

Where the two models have different tokens, the entries of a sequence are numbered by each model's own tokens,
and padded with zeros:

    source.{layer}, norm.source.{layer}, token.source   the source's i-th token; token -1: padding
    target.{layer}, norm.target.{layer}, token.target   the target's
    document, group                                     the i-th span of characters of both; document -1: none
    start.source, stop.source, start.target, stop.target [tokens] int32   its tokens in the sequence
    start.text, stop.text [tokens] int32                its characters in the document's text

With states in one byte per entry, `source.{layer}` is int8, beside what turns it into states (`quantised`).

Opening a store checks every file's size and header, which finds missing, cut and grown files. `verify` can
read the contents too, since safetensors does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrt.activations.errors import StoreCorrupt, StoreForeign, StoreMissing
from lrt.activations.manifest import Manifest, Shard
from lrt.activations.plan import RecordingPlan, check_same_plan
from lrt.activations.quantised import Quantised
from lrt.corpora.splits import Split
from lrt.models.sides import Side
from lrt.storage.text_files import parse_json

MANIFEST = "manifest.json"


class ShardReader:
    """Reads runs of tokens of one shard, which is mapped into memory.

    Mapped by hand, because safetensors' `get_slice` (0.8) leaks a few bytes at every call, and because
    `announce` needs the offsets.
    """

    def __init__(self, path: Path, plan: RecordingPlan) -> None:
        header, begin = shard_header(path)
        self._path, self._begins = path, dict[str, int]()
        size = path.stat().st_size
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        tensors: dict[str, Tensor] = {}
        for name, column in plan.tensors.items():
            start, stop = (begin + int(offset) for offset in header[name]["data_offsets"])
            # copied if not aligned in the file: few tensors are not, and they are small
            flat = mapped[start:stop]
            if start % column.dtype.itemsize:
                flat = flat.clone()
            tensors[name] = flat.view(column.dtype).view(header[name]["shape"])
            self._begins[name] = start
        self._columns: dict[str, Tensor | Quantised] = {}
        for name, column in plan.columns.items():
            self._columns[name] = tensors[name]
            if column.holds_states and plan.states == "int8":
                step, massive, where = (tensors[f"{name}.{part}"] for part in ("step", "massive", "where"))
                self._columns[name] = Quantised(tensors[name], step, massive, where, tensors[f"norm.{name}"])

    def whole(self, column: str) -> Tensor:
        """A column of all tokens as a view of the file: copy before writing. Not for quantised states."""
        values = self._columns[column]
        if isinstance(values, Quantised):
            raise TypeError(f"{column} is quantised, so it has no view; read it with `rows`")
        return values

    def announce(self, columns: Sequence[str], runs: Iterable[tuple[int, int]]) -> None:
        """Let the operating system read runs of tokens ahead in the background, if it takes such hints."""
        if not hasattr(os, "posix_fadvise"):
            return
        each = {column: self.whole(column)[0].nbytes for column in columns}
        with self._path.open("rb") as file:
            for (start, stop), (column, size) in product(runs, each.items()):
                begin = self._begins[column] + start * size
                os.posix_fadvise(file.fileno(), begin, (stop - start) * size, os.POSIX_FADV_WILLNEED)

    def rows(self, column: str, start: int, stop: int) -> Tensor:  # [stop - start, ...]
        """Tokens `start` to `stop` of a column, if possible as a view of the file: copy before writing."""
        values = self._columns[column]
        return values.rows(start, stop) if isinstance(values, Quantised) else values[start:stop]


class ActivationStore:
    """A complete store, opened for reading. Has paths and the manifest only, so it is cheap to copy."""

    def __init__(self, folder: Path, manifest: Manifest, fix_hint: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fix_hint = fix_hint

    @classmethod
    def open(
        cls, folder: str | Path, expect: RecordingPlan | None = None, fix_hint: str | None = None
    ) -> ActivationStore:
        """Open the store in `folder` after checking each file's size and header.

        expect    The plan that the store must have been recorded with.
        fix_hint  End of every error message: how to record the store again.

        Raises:
            StoreMissing: there is no manifest (nothing is recorded, or the recording is not finished).
            StoreCorrupt: a file is missing or has another size, or a header or the manifest is altered.
            StoreForeign: the store is whole, but of another plan or format.
        """
        folder = Path(folder)
        fix_hint = fix_hint or _fix_hint(folder)
        manifest = cls.manifest_of(folder, fix_hint)
        if expect is not None:
            check_same_plan(manifest.plan.as_json(), expect.as_json(), str(folder), fix_hint, layout=False)
        store = cls(folder, manifest, fix_hint)
        store.verify()
        return store

    @staticmethod
    def manifest_of(folder: Path, fix_hint: str | None = None) -> Manifest:
        """The manifest of a store whose shards are not checked.

        Raises StoreMissing, StoreCorrupt and StoreForeign (another format) as `open`.
        """
        fix_hint = fix_hint or _fix_hint(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise StoreMissing(f"{folder} has no complete activation store (no {MANIFEST}); {fix_hint}")
        try:
            return Manifest.loads(path.read_text(encoding="utf-8"), str(path), fix_hint)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(f"{path} is corrupt: {error}; {fix_hint}") from error

    @property
    def plan(self) -> RecordingPlan:
        return self.manifest.plan

    def shards(self, split: Split) -> list[Shard]:
        """The split's shards, in the order of its tokens."""
        return [shard for shard in self.manifest.shards if shard.split == split]

    def rows(self, split: Split) -> int:
        """Recorded tokens of a split."""
        return self.manifest.rows(split)

    def width(self, side: Side) -> int:
        return self.plan.side(side).width

    def column(self, side: Side, layer: int) -> str:
        """Name of the column of a side's states at a layer. Raises StoreForeign if it was not recorded."""
        layers = self.plan.side(side).layers
        if layer not in layers:
            raise StoreForeign(
                f"{self.folder} has {side} layers {list(layers)}, not layers.{side}={layer}; {self.fix_hint}"
            )
        return f"{side}.{layer}"

    def reader(self, shard: Shard) -> ShardReader:
        """Open one shard. Any number of threads and processes can do so at the same time.

        Raises StoreCorrupt if it cannot be mapped.
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
        """The split's tokens in order, as dicts of the named columns, `rows_at_once` tokens at a time."""
        for shard in self.shards(split):
            reader = self.reader(shard)
            for start in range(0, shard.rows, rows_at_once):
                stop = min(start + rows_at_once, shard.rows)
                yield {name: reader.rows(name, start, stop) for name in columns}

    def verify(self, full: bool = False) -> None:
        """Check sizes and headers of all shards.

        full  Compare every file's sha256 too, and its token ids with the digest in the manifest.

        Raises StoreCorrupt for the first damaged file.
        """
        for shard in self.manifest.shards:
            check_shard(self.folder, shard, self.plan, self.fix_hint, full=full)
            if not full:
                continue
            reader = self.reader(shard)
            if token_digest([reader.rows(n, 0, shard.rows) for n in self.plan.token_columns]) != shard.tokens:
                raise StoreCorrupt(
                    f"{self.folder / shard.file} is corrupt: its tokens do not match the manifest; "
                    f"{self.fix_hint}"
                )


def _fix_hint(folder: Path) -> str:
    return f"delete the folder {folder} and run the command again to record it"


def check_shard(folder: Path, shard: Shard, plan: RecordingPlan, fix_hint: str, *, full: bool) -> None:
    """Raise StoreCorrupt unless the shard's file has the listed size, the plan's tensors and, if `full`, the
    listed checksum."""
    path = folder / shard.file

    def corrupt(reason: str) -> StoreCorrupt:
        return StoreCorrupt(f"{path} is corrupt: {reason}; {fix_hint}")

    if not path.is_file():
        raise corrupt("the file is missing")
    size = path.stat().st_size
    if size != shard.bytes:
        raise corrupt(f"it has {size} bytes, expected {shard.bytes}")
    try:
        header, _ = shard_header(path)
    except ValueError as error:
        raise corrupt(f"its header cannot be read ({error})") from error
    wanted = plan.tensors
    present = {
        name: (entry.get("dtype"), entry.get("shape"))
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict)
    }
    for name in sorted({*wanted, *present}):
        column, (dtype, shape) = wanted.get(name), present.get(name, (None, None))
        if column is None or dtype != column.safetensors_name or not column.fits(shape, shard.rows):
            expected = None if column is None else (column.safetensors_name, column.shape(shard.rows))
            raise corrupt(f"{name} is {present.get(name)}, expected {expected}")
    if full and file_digest(path) != shard.sha256:
        raise corrupt("its contents do not match the sha256 in the manifest")


def token_digest(tokens: Sequence[Tensor]) -> str:
    """sha256 of token ids `[n]`, int32, of one model after another."""
    return hashlib.sha256(b"".join(ids.contiguous().numpy().tobytes() for ids in tokens)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_header(path: Path) -> tuple[Mapping[str, Any], int]:
    """The JSON header of a safetensors file, and the offset at which the data begins.

    A safetensors file is the header's length as 8 little-endian bytes, the header, the data.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError(f"a header of {length} bytes does not fit the file")
        header = parse_json(file.read(length), "it")
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    return header, 8 + length
