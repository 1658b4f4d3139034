"""What a store says of itself: the plan that determines its bytes, and the list of its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch

from lrt.activations.errors import StoreForeign
from lrt.corpora.splits import SPLITS, Split
from lrt.storage.sealed import canonical, opened, sealed, unsealed

FORMAT = 1
HOOK_POINT = "block output, residual stream, before the final norm"
Side = Literal["source", "target"]
SIDES: tuple[Side, ...] = ("source", "target")
# what becomes of hidden states that are infinite or undefined
NonFinite = Literal["refuse", "exclude"]
# in the dtype that the models ran in, or in a byte an entry (`quantised`)
Stored = Literal["native", "int8"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `bfloat16`. Raises ValueError for a dtype that hidden states do not
    have.
    """
    for name, known in _DTYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"hidden states of dtype {dtype} cannot be stored; one of {', '.join(_DTYPES)}")


@dataclass(frozen=True)
class Column:
    """One tensor of every shard: `[rows]` where width is 0, else `[rows, width]`."""

    dtype: torch.dtype
    width: int = 0

    @property
    def bytes_per_row(self) -> int:
        return self.dtype.itemsize * max(1, self.width)

    def shape(self, rows: int) -> list[int]:
        return [rows, self.width] if self.width else [rows]

    def fits(self, shape: object, rows: int) -> bool:
        """Whether a shard of so many rows may hold a tensor of this shape."""
        return shape == self.shape(rows)

    @property
    def safetensors_name(self) -> str:
        return _SAFETENSORS[self.dtype]


@dataclass(frozen=True)
class StepColumn(Column):
    """One number for each dimension of a shard: `[width]`."""

    @property
    def bytes_per_row(self) -> int:
        return 0

    def shape(self, rows: int) -> list[int]:  # noqa: ARG002
        return [self.width]


@dataclass(frozen=True)
class SomeRowsColumn(Column):
    """Some of a shard's rows, `[k, width]`, or their numbers, `[k]`, where width is 0. How many they are is
    not known beforehand; the disk need counts one row in 64, which is seldom reached.
    """

    @property
    def bytes_per_row(self) -> int:
        return super().bytes_per_row // 64

    def fits(self, shape: object, rows: int) -> bool:
        match shape:
            case [int() as count, *rest]:
                return 0 <= count <= rows and rest == ([self.width] if self.width else [])
        return False


@dataclass(frozen=True)
class ModelStates:
    """Which hidden states of which model: `name` is for display, identity is elsewhere."""

    name: str
    layers: tuple[int, ...]  # zero-based decoder blocks
    width: int
    dtype: str


@dataclass(frozen=True)
class ShardPlan:
    """A shard holds whole blocks of one split, `blocks` of them from `first_block` on."""

    file: str
    split: Split
    first_block: int
    blocks: int

    def matches(self, shard: Shard, context: int) -> bool:
        """Whether a finished shard is this one, of blocks of `context` tokens."""
        return (shard.file, shard.split, shard.rows) == (self.file, self.split, self.blocks * context)


@dataclass(frozen=True)
class RecordingPlan:
    """Everything that determines a store's bytes, known before any model has run."""

    source: ModelStates
    target: ModelStates
    corpus: str  # PackedCorpus.digest
    groups: tuple[str, ...]
    context: int
    blocks: Mapping[str, int]  # by split
    rows_per_shard: int
    batch_tokens: int
    identity: Mapping[str, Any]  # models, revisions, tokenizer: whatever the caller must tell apart
    versions: Mapping[str, str]
    non_finite: NonFinite = "refuse"
    states: Stored = "native"

    def side(self, side: Side) -> ModelStates:
        return self.source if side == "source" else self.target

    @property
    def columns(self) -> dict[str, Column]:
        """What is read of every shard, by name."""
        columns: dict[str, Column] = {}
        for side in SIDES:
            states = self.side(side)
            for layer in states.layers:
                columns[f"{side}.{layer}"] = Column(_DTYPES[states.dtype], states.width)
                columns[f"norm.{side}.{layer}"] = Column(torch.float32)
        columns["token"] = Column(torch.int32)
        columns["position"] = Column(torch.int32)  # within the block, zero-based
        columns["document"] = Column(torch.int64)
        columns["group"] = Column(torch.int32)
        return columns

    @property
    def tensors(self) -> dict[str, Column]:
        """What a shard's file holds, by name."""
        if self.states == "native":
            return self.columns
        found: dict[str, Column] = {}
        for name, column in self.columns.items():
            if not column.width:
                found[name] = column
                continue
            found[name] = Column(torch.int8, column.width)
            found[f"{name}.step"] = StepColumn(torch.float32, column.width)
            found[f"{name}.massive"] = SomeRowsColumn(column.dtype, column.width)
            found[f"{name}.where"] = SomeRowsColumn(torch.int64)
        return found

    @property
    def shards(self) -> list[ShardPlan]:
        """How blocks fall into files; at least one block to a shard."""
        each = max(1, self.rows_per_shard // self.context)
        plans = []
        for split in SPLITS:
            total = self.blocks[split]
            for number, first in enumerate(range(0, total, each)):
                name = f"{split}-{number:05d}.safetensors"
                plans.append(ShardPlan(name, split, first, min(each, total - first)))
        return plans

    @property
    def shard_count(self) -> int:
        """How many files that makes."""
        each = max(1, self.rows_per_shard // self.context)
        return sum(-(-self.blocks[split] // each) for split in SPLITS)

    @property
    def rows(self) -> int:
        return sum(self.blocks.values()) * self.context

    @property
    def bytes_per_row(self) -> int:
        return sum(column.bytes_per_row for column in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Disk need of the whole store."""
        return self.bytes_of(self.shards)

    def rows_of(self, shards: Sequence[ShardPlan]) -> int:
        """Rows in some shards."""
        return sum(shard.blocks for shard in shards) * self.context

    def bytes_of(self, shards: Sequence[ShardPlan]) -> int:
        """Disk need of some shards: their rows, a header each (generously) and the manifest."""
        return self.rows_of(shards) * self.bytes_per_row + (len(shards) + 1) * 2**14

    def as_json(self) -> dict[str, Any]:
        """Plain containers, as the manifest keeps them."""
        plain: dict[str, Any] = json.loads(canonical(asdict(self)))
        return {"format": FORMAT, "hook_point": HOOK_POINT, **plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordingPlan:
        fields = {k: v for k, v in value.items() if k not in ("format", "hook_point")}
        for side in SIDES:
            states = dict(fields[side])
            fields[side] = ModelStates(**{**states, "layers": tuple(states["layers"])})
        fields["groups"] = tuple(fields["groups"])
        plan = cls(**fields)
        sizes = [plan.context, plan.rows_per_shard, plan.batch_tokens]
        sizes += [side.width for side in (plan.source, plan.target)]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError("its plan has a size that is none")
        if not all(type(plan.blocks[split]) is int and plan.blocks[split] >= 0 for split in SPLITS):
            raise ValueError(f"its plan has blocks {plan.blocks}")
        for side in SIDES:
            side_states = plan.side(side)
            layers = [layer for layer in side_states.layers if type(layer) is int and layer >= 0]
            if side_states.dtype not in list(_DTYPES) or len(set(layers)) != len(side_states.layers):
                raise ValueError(f"its plan has {side} states {side_states}")
        if plan.states not in get_args(Stored) or plan.non_finite not in get_args(NonFinite):
            raise ValueError(f"its plan has states={plan.states}, non_finite={plan.non_finite}")
        if not all(isinstance(text, str) for text in (plan.corpus, *plan.groups)):
            raise ValueError("its plan has a corpus or a part of it without a name")
        return plan


# What may differ between a complete store and what is asked for: how it was cut and made.
_LAYOUT = frozenset({"rows_per_shard", "batch_tokens", "versions"})


def check_same_plan(
    found: Mapping[str, Any], wanted: Mapping[str, Any], where: str, fix_hint: str, *, layout: bool
) -> None:
    """Raises StoreForeign that names the first entry in which two plans (as JSON) differ.

    `layout` compares batch size, shard size and library versions too: a recording is only continued
    under exactly the settings it began with, since its bytes depend on them.
    """
    skipped = frozenset() if layout else _LAYOUT
    difference = _first_difference(
        {k: v for k, v in found.items() if k not in skipped},
        {k: v for k, v in wanted.items() if k not in skipped},
    )
    if difference is not None:
        key, here, asked = difference
        raise StoreForeign(
            f"{where} was recorded from something else: {key} is {here!r} there and {asked!r} is asked for; {fix_hint}"
        )


def _first_difference(found: Any, wanted: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*found, *wanted}):
            inner = f"{key}.{name}" if key else name
            deeper = _first_difference(found.get(name), wanted.get(name), inner)
            if deeper is not None:
                return deeper
        return None
    return None if found == wanted else (key, found, wanted)


@dataclass(frozen=True)
class Shard:
    """A finished shard, as journal and manifest list it."""

    file: str
    split: Split
    rows: int
    bytes: int
    sha256: str
    # rows by column whose state is infinite or undefined; zeros stand for them, and their norm is infinite
    non_finite: Mapping[str, int] = field(default_factory=dict)
    # rows by column whose norm is over `quantised.MASSIVE` medians of the shard's
    massive: Mapping[str, int] = field(default_factory=dict)
    tokens: str = ""  # sha256 over the token ids, int32


def check_shards(plan: RecordingPlan, shards: Sequence[Shard]) -> None:
    """Raises ValueError where the shards that are listed are not those of a plan: a name that it does not
    give might lead out of the folder, and rows of another split or number would be taken for what they are
    not."""
    if len(shards) != plan.shard_count:
        raise ValueError(f"it lists {len(shards)} shards and its plan has {plan.shard_count}")
    for shard, planned in zip(shards, plan.shards, strict=True):
        if not planned.matches(shard, plan.context):
            raise ValueError(f"its shard {shard.file!r} is not the {planned.file} of its plan")


@dataclass(frozen=True)
class Manifest:
    """The store's table of contents, written last."""

    plan: RecordingPlan
    shards: tuple[Shard, ...]
    median_norms: Mapping[str, float]  # by "source.{layer}": train rows, position 0 left out

    def rows(self, split: Split) -> int:
        return sum(shard.rows for shard in self.shards if shard.split == split)

    def dumps(self) -> str:
        """The file's text: contents and their digest, so that an altered manifest is noticed."""
        contents = {
            "plan": self.plan.as_json(),
            "rows": {split: self.rows(split) for split in SPLITS},
            "shards": [asdict(shard) for shard in self.shards],
            "median_norms": dict(self.median_norms),
        }
        return sealed(contents)

    @classmethod
    def loads(cls, text: str, where: str, fix_hint: str) -> Manifest:
        """Reads what `dumps` wrote. Raises ValueError where it was altered, StoreForeign where its
        format is another."""
        contents = opened(text)
        if "plan" not in contents:
            raise ValueError("it is not a manifest")
        contents = unsealed(contents)
        try:
            if (found := contents["plan"].get("format")) != FORMAT:
                raise StoreForeign(f"{where} is of format {found}, this version reads {FORMAT}; {fix_hint}")
            plan = RecordingPlan.from_json(contents["plan"])
            shards = tuple(Shard(**shard) for shard in contents["shards"])
            medians = {str(name): float(norm) for name, norm in contents["median_norms"].items()}
            check_shards(plan, shards)
        except (AttributeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"its entries are not those of a manifest ({error!r})") from error
        return cls(plan, shards, medians)
