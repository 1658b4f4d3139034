"""What a recording will write: the models, layers and text that determine every byte of a store."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from lrt.activations.errors import StoreForeign
from lrt.corpora.alignment import BOUNDS
from lrt.corpora.sequences import PackedCorpus
from lrt.corpora.splits import SPLITS, Split
from lrt.errors import InvalidValue
from lrt.models.sides import HOOK_POINT, SIDES, Side
from lrt.models.stacked import StateModel
from lrt.storage.sealed import canonical

FORMAT = 2
# whether hidden states that are infinite or NaN end the recording, or are counted and excluded
NonFinite = Literal["refuse", "exclude"]
# hidden states in the dtype that the models ran in, or in one byte per entry (`quantised`)
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
_VERSIONS_THAT_MATTER = ("torch", "transformers", "safetensors")


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `bfloat16`. Raises ValueError for a dtype that cannot be stored."""
    for name, known in _DTYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"hidden states of dtype {dtype} cannot be stored; allowed are {', '.join(_DTYPES)}")


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide the bits of hidden states."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS_THAT_MATTER}


@dataclass(frozen=True)
class Column:
    """One tensor of every shard, a value per token: `[tokens]` if width is 0, else `[tokens, width]`."""

    dtype: torch.dtype
    width: int = 0

    @property
    def holds_states(self) -> bool:
        """Whether these are hidden states, and not token ids of several models."""
        return self.width > 0 and self.dtype.is_floating_point

    @property
    def bytes_per_row(self) -> int:
        return self.dtype.itemsize * max(1, self.width)

    def shape(self, rows: int) -> list[int]:
        return [rows, self.width] if self.width else [rows]

    def fits(self, shape: object, rows: int) -> bool:
        """Whether a shard with this number of tokens may have a tensor of this shape."""
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
    """Values of some of a shard's tokens, `[k, width]`, or `[k]` if width is 0.

    `k` is not known before the models run. The disk need assumes one token in 64, which is rarely reached.
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
    """Which hidden states of which model are recorded. `name` is for display only."""

    name: str
    layers: tuple[int, ...]  # zero-based decoder blocks
    width: int
    dtype: str


@dataclass(frozen=True)
class ShardPlan:
    """One shard's file: `sequences` sequences of one split, beginning with number `first_sequence`."""

    file: str
    split: Split
    first_sequence: int
    sequences: int


@dataclass(frozen=True)
class RecordingPlan:
    """Everything that determines a store's bytes, known before any model runs."""

    source: ModelStates
    target: ModelStates
    corpus: str  # PackedCorpus.digest
    groups: tuple[str, ...]  # names of the parts of the mixture
    context: int  # tokens in a sequence
    sequences: Mapping[str, int]  # by split
    rows_per_shard: int  # tokens in one file
    batch_tokens: int
    identity: Mapping[str, Any]  # models, revisions, tokenizer: whatever else the caller must distinguish
    versions: Mapping[str, str]  # of libraries
    non_finite: NonFinite = "refuse"
    states: Stored = "native"
    aligned: bool = False  # whether the two models have different tokens
    readers: int = 0  # source models that read a text in steps, each in its own tokens

    def side(self, side: Side) -> ModelStates:
        return self.source if side == "source" else self.target

    @property
    def columns(self) -> dict[str, Column]:
        """What a reader gets from every shard, by name."""
        columns: dict[str, Column] = {}
        for side in SIDES:
            states = self.side(side)
            for layer in states.layers:
                columns[f"{side}.{layer}"] = Column(_DTYPES[states.dtype], states.width)
                columns[f"norm.{side}.{layer}"] = Column(torch.float32)
        for name in self.token_columns:
            steps = name == self.token_column("source")
            columns[name] = Column(torch.int32, self.readers if steps else 0)
        columns["position"] = Column(torch.int32)  # within the sequence, zero-based
        columns["document"] = Column(torch.int64)
        columns["group"] = Column(torch.int32)
        if self.aligned:
            columns |= {name: Column(torch.int32) for name in BOUNDS}
        return columns

    @property
    def token_columns(self) -> list[str]:
        """Names of the columns with token ids: one, or one for each model."""
        return [self.token_column(side) for side in SIDES] if self.aligned else ["token"]

    def token_column(self, side: Side) -> str:
        """Name of the column with the token ids that a model reads."""
        return f"token.{side}" if self.aligned else "token"

    def whole_sequences(self, tokens: int) -> int:
        """The least number of tokens, from `tokens` on, that a run of rows may have.

        Where the two models have different tokens, those of one text lie together in a whole sequence only.
        """
        return -(-tokens // self.context) * self.context if self.aligned else tokens

    @property
    def tensors(self) -> dict[str, Column]:
        """What a shard's file contains, by name."""
        if self.states == "native":
            return self.columns
        tensors: dict[str, Column] = {}
        for name, column in self.columns.items():
            if not column.holds_states:
                tensors[name] = column
                continue
            tensors[name] = Column(torch.int8, column.width)
            tensors[f"{name}.step"] = StepColumn(torch.float32, column.width)
            tensors[f"{name}.massive"] = SomeRowsColumn(column.dtype, column.width)
            tensors[f"{name}.where"] = SomeRowsColumn(torch.int64)
        return tensors

    @property
    def _sequences_per_shard(self) -> int:
        return max(1, self.rows_per_shard // self.context)

    @property
    def shards(self) -> list[ShardPlan]:
        """The files of the store, in order; each has at least one sequence."""
        each = self._sequences_per_shard
        plans = []
        for split in SPLITS:
            total = self.sequences[split]
            for number, first in enumerate(range(0, total, each)):
                name = f"{split}-{number:05d}.safetensors"
                plans.append(ShardPlan(name, split, first, min(each, total - first)))
        return plans

    @property
    def shard_count(self) -> int:
        """`len(shards)`, without building the list: a damaged manifest may claim any number."""
        return sum(-(-self.sequences[split] // self._sequences_per_shard) for split in SPLITS)

    @property
    def rows(self) -> int:
        """Tokens of all splits."""
        return sum(self.sequences.values()) * self.context

    @property
    def bytes_per_row(self) -> int:
        """Bytes on disk per token."""
        return sum(column.bytes_per_row for column in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Disk need of the whole store."""
        return self.bytes_of(self.shards)

    def rows_of(self, shards: Sequence[ShardPlan]) -> int:
        """Tokens in some shards."""
        return sum(shard.sequences for shard in shards) * self.context

    def bytes_of(self, shards: Sequence[ShardPlan]) -> int:
        """Disk need of some shards: their tokens, a generous header each, and the manifest."""
        return self.rows_of(shards) * self.bytes_per_row + (len(shards) + 1) * 2**14

    def as_json(self) -> dict[str, Any]:
        """Plain containers, as in the manifest."""
        plain: dict[str, Any] = json.loads(canonical(asdict(self)))
        if not self.aligned:  # as it was before there were others
            del plain["aligned"]
        if not self.readers:
            del plain["readers"]
        return {"format": FORMAT, "hook_point": HOOK_POINT, **plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordingPlan:
        """The plan that `as_json` wrote. Raises ValueError, KeyError or TypeError for invalid entries."""
        fields = {k: v for k, v in value.items() if k not in ("format", "hook_point")}
        for side in SIDES:
            states = dict(fields[side])
            fields[side] = ModelStates(**{**states, "layers": tuple(states["layers"])})
        fields["groups"] = tuple(fields["groups"])
        plan = cls(**fields)
        sizes = {
            "context": plan.context,
            "rows_per_shard": plan.rows_per_shard,
            "batch_tokens": plan.batch_tokens,
            "source.width": plan.source.width,
            "target.width": plan.target.width,
        }
        for name, size in sizes.items():
            if type(size) is not int or size <= 0:
                raise ValueError(f"its plan has {name}={size!r}; it must be a positive integer")
        if not all(type(plan.sequences[split]) is int and plan.sequences[split] >= 0 for split in SPLITS):
            raise ValueError(f"its plan has sequences={plan.sequences}; they must be counts")
        for side in SIDES:
            side_states = plan.side(side)
            layers = [layer for layer in side_states.layers if type(layer) is int and layer >= 0]
            if side_states.dtype not in list(_DTYPES) or len(set(layers)) != len(side_states.layers):
                raise ValueError(f"its plan has invalid {side} states {side_states}")
        if type(plan.aligned) is not bool:
            raise ValueError(f"its plan has aligned={plan.aligned!r}; it must be true or absent")
        if type(plan.readers) is not int or plan.readers < 0:
            raise ValueError(
                f"its plan has readers={plan.readers!r}; it must be a number of models or absent"
            )
        if plan.states not in get_args(Stored) or plan.non_finite not in get_args(NonFinite):
            raise ValueError(f"its plan has states={plan.states}, non_finite={plan.non_finite}")
        if not all(isinstance(text, str) for text in (plan.corpus, *plan.groups)):
            raise ValueError("its plan has a corpus or a group whose name is not text")
        return plan


def plan_recording(
    source: StateModel,
    target: StateModel,
    source_layers: Sequence[int],
    target_layers: Sequence[int],
    corpus: PackedCorpus,
    *,
    identity: Mapping[str, Any] | None = None,
    rows_per_shard: int = 65_536,
    batch_tokens: int = 4096,
    non_finite: NonFinite = "refuse",
    states: Stored = "native",
) -> RecordingPlan:
    """Plan what `record` will write: tokens, bytes on disk, shards. Runs no model.

    Args:
        source_layers, target_layers: zero-based decoder blocks.
        identity: what else determines the bytes (revisions and weights of the models, tokenizer), as plain
            JSON values. A store with another identity is rejected.
        rows_per_shard: tokens in one file; rounded down to whole sequences.
        batch_tokens: tokens in one forward pass; rounded down to whole sequences.
        non_finite: `refuse` ends the recording at a state that is infinite or NaN. `exclude` counts it and
            excludes its token from every fit of that layer (norm recorded as infinite, entries as zeros).
        states: `native` stores the dtype that the models ran in, `int8` one byte per entry.

    Raises InvalidValue for a layer that a model does not have, sizes below 1, and a corpus without training
    text.
    """
    for name, value in (("rows_per_shard", rows_per_shard), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise InvalidValue(f"recording.{name}={value}; it must be at least 1")
    if len(corpus.splits["train"]) == 0:
        raise InvalidValue("the corpus has no training sequence; raise corpus.tokens.train")
    return RecordingPlan(
        source=_states(source, "source", source_layers),
        target=_states(target, "target", target_layers),
        corpus=corpus.digest,
        groups=corpus.groups,
        context=corpus.context,
        sequences={split: len(corpus.splits[split]) for split in SPLITS},
        rows_per_shard=rows_per_shard,
        batch_tokens=batch_tokens,
        identity=json.loads(canonical(dict(identity or {}))),
        versions=library_versions(),
        non_finite=non_finite,
        states=states,
        aligned=corpus.aligned,
        readers=corpus.readers,
    )


def _states(model: StateModel, side: Side, layers: Sequence[int]) -> ModelStates:
    wanted = tuple(sorted(set(layers)))
    check_layers(model, side, wanted)
    return ModelStates(model.spec.name, wanted, model.width, dtype_name(model.dtype))


def check_layers(model: StateModel, side: Side, layers: Sequence[int]) -> None:
    """Raise InvalidValue unless `layers` is a non-empty list of the model's zero-based blocks."""
    if not layers:
        raise InvalidValue(f"layers.{side} is empty; name at least one block")
    for layer in layers:
        if not 0 <= layer < model.depth:
            raise InvalidValue(
                f"layers.{side}={layer} is out of range: {model.spec.name} has blocks 0 to {model.depth - 1}"
            )


# Entries that may differ between a complete store and the wanted plan: they do not change what it holds.
_LAYOUT = frozenset({"rows_per_shard", "batch_tokens", "versions"})


def check_same_plan(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], where: str, fix_hint: str, *, layout: bool
) -> None:
    """Raise StoreForeign naming the first entry in which two plans (as JSON) differ.

    layout  Compare batch size, shard size and library versions too. An unfinished recording can only be
            continued with exactly the settings it began with, since its bytes depend on them.
    """
    skipped = frozenset() if layout else _LAYOUT
    difference = _first_difference(
        {k: v for k, v in stored.items() if k not in skipped},
        {k: v for k, v in wanted.items() if k not in skipped},
    )
    if difference is not None:
        key, theirs, ours = difference
        raise StoreForeign(f"{where} was recorded with {key}={theirs!r}, but expected {ours!r}; {fix_hint}")


def _first_difference(stored: Any, wanted: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*stored, *wanted}):
            inner = f"{key}.{name}" if key else name
            deeper = _first_difference(stored.get(name), wanted.get(name), inner)
            if deeper is not None:
                return deeper
        return None
    return None if stored == wanted else (key, stored, wanted)
