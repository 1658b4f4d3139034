"""Every pair of a grid of layers from one pass of both models, without a store."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, tensor

from lrt.activations import Selection, paired_rows
from lrt.config import ConfigError, Recording
from lrt.config.sections import Depth
from lrt.corpora import SPLITS, Split
from lrt.evaluation import ContrastStates
from lrt.mapping import GridMoments, LayerConcat, atlas, atlas_bytes
from lrt.mapping.moments import CHUNK_ROWS
from lrt.models.hardware import with_float64, with_room
from lrt.models.sides import SIDES
from lrt.pipeline.fit_data import RowSource
from lrt.pipeline.layers import LayerPair, resolve
from lrt.pipeline.monitor import Advance, Monitor
from lrt.pipeline.pair import ModelPair
from lrt.pipeline.pair_model import PairModel
from lrt.pipeline.states import MEDIAN_TOKENS, StatesOnTheFly
from lrt.storage.cache import JSON, TENSORS, reading
from lrt.storage.sealed import load_tensors, save_tensors

log = logging.getLogger(__name__)

COPIES = len(SPLITS) + 2
"""In memory: the sums of each split, and of the last one those of excluded documents and of all."""
FILES = 2 * len(SPLITS) + 1
"""On disk: of each split those of all documents and of excluded ones, and one that is being written."""


def _blocks_of(value: Any) -> Any:
    match value:
        case "all":
            return value
        case int() if value >= 1 and not isinstance(value, bool):
            return value
        case [_, *_] if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return value
    raise ValueError(
        f"{value!r} names no layers: give all, a number of evenly spread layers (1 or more), or a list of "
        "layers or depths in [0, 1)"
    )


GridLayers = Annotated[str | int | tuple[Depth, ...], BeforeValidator(_blocks_of)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AtlasSettings:
    """The section `atlas` of conf/atlas.yaml.

    source, target    `all`, a number of evenly spread layers, or a list of layers or depths in [0, 1).
    memory_gb         Most memory for the sums and the states of a batch, in 1e9 bytes.
    checkpoint_every  Sequences between two checkpoints of the sums; changes no figure.
    """

    source: GridLayers
    target: GridLayers
    memory_gb: float
    checkpoint_every: int

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ConfigError(f"atlas.memory_gb={self.memory_gb}: must be above 0")
        if self.checkpoint_every < 1:
            raise ConfigError(f"atlas.checkpoint_every={self.checkpoint_every}: must be at least 1")


def grid_layers(settings: AtlasSettings, pair: ModelPair) -> LayerPair:
    """The grid. Raises ConfigError for layers that a model lacks and for one named twice."""
    source, target = (
        LayerConcat(
            spread(getattr(settings, side), pair.models[side], f"atlas.{side}"), pair.models[side].width
        )
        for side in SIDES
    )
    return LayerPair(source, target)


def spread(wanted: str | int | Sequence[Depth], model: PairModel[Any], setting: str) -> tuple[int, ...]:
    """The layers that a setting names, from first to last.

    A number `n` spreads them from the first layer to the last; 1 is the layer at half depth.
    """
    depth = model.depth
    if wanted == "all":
        return tuple(range(depth))
    if isinstance(wanted, int):
        if wanted > depth:
            raise ConfigError(f"{setting}={wanted}: {model.spec.name} has {depth} layers; give 1 to {depth}")
        if wanted == 1:
            return (depth // 2,)
        # whole-numbered halves up: steps of at least one layer never meet
        return tuple((2 * i * (depth - 1) + wanted - 1) // (2 * (wanted - 1)) for i in range(wanted))
    assert not isinstance(wanted, str), "`all` is the only word that is accepted"
    return tuple(sorted(resolve(wanted, setting, model)))


@dataclass(frozen=True)
class SplitSums:
    """Sums of one split.

    non_finite  Excluded tokens by `source.LAYER` and `target.LAYER`, where there are some.
    """

    moments: GridMoments
    non_finite: Mapping[str, int]


class GridAtlas:
    """The sums of a grid of layers, made once and continued where a run was stopped, and its cells.

    prompts  Digests of the contrastive sets by name.
    """

    def __init__(
        self,
        settings: AtlasSettings,
        pair: ModelPair,
        states: StatesOnTheFly,
        rows: RowSource,
        recording: Recording,
        prompts: Mapping[str, str],
    ) -> None:
        self.settings, self.pair, self.states, self.rows = settings, pair, states, rows
        self.recording, self.prompts, self.layers = recording, prompts, states.layers
        self.monitor: Monitor = rows.monitor

    @property
    def copy_bytes(self) -> int:
        """Bytes of the sums of one split, in memory and on disk."""
        source, target = self.layers
        return atlas_bytes(source.layers, source.width, target.layers, target.width, 1)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all sums and of a batch's states: as they come, as rows, and as a chunk of them."""
        batch = max(self.recording.batch_tokens, self.rows.text.settings.context)
        states = sum(
            self.layers.of(side).total
            * (batch * (self.pair.model(side).dtype.itemsize + 4) + min(batch, CHUNK_ROWS) * 4)
            for side in SIDES
        )
        return COPIES * self.copy_bytes + states

    def check(self) -> None:
        """Raises ConfigError for a grid that does not fit in `atlas.memory_gb` or on the disk."""
        if self._cells_path.is_file():
            return
        source, target = self.layers
        if self.memory_bytes > self.settings.memory_gb * 1e9:
            raise ConfigError(
                f"a grid of {len(source.layers)} x {len(target.layers)} layers needs "
                f"{self.memory_bytes / 1e9:.3g} GB of memory beside the models and "
                f"atlas.memory_gb={self.settings.memory_gb:g}: thin the grid (atlas.source=8 atlas.target=8 "
                "takes 8 evenly spread layers of each), lower recording.batch_tokens, or raise "
                "atlas.memory_gb"
            )
        folder = self.rows.cache.folder
        need, free = FILES * self.copy_bytes - self._bytes_written(), shutil.disk_usage(folder).free
        if need > free:
            raise ConfigError(
                f"the sums of this grid need {need / 1e9:.3g} GB on disk and {folder} has "
                f"{free / 1e9:.3g} GB free: make room, thin the grid (atlas.source, atlas.target), or set "
                "paths.artifacts to another disk"
            )

    def _bytes_written(self) -> int:
        every = self._of_every_document
        selections = every, every.of_documents(self._excluded, excluded=False)
        paths = (
            self.rows.cache.path("atlas", self._split_facts(split, selection), TENSORS.suffix, split)
            for split in SPLITS
            for selection in selections
        )
        return sum(path.stat().st_size for path in paths if path.is_file())

    # -- sums and cells --------------------------------------------------------------------------

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that determines the sums, to the last bit."""
        settings = self.rows.settings
        return {
            "models": self.pair.identities,
            "layers": [layers.layers for layers in self.layers],
            "corpus": self.rows.text.digest,
            "filter": settings.filter,
            "pool": settings.pool,
            "rows": settings.rules,
            "products": settings.products,
            "non_finite": self.recording.non_finite,
            "median_tokens": MEDIAN_TOKENS,
            # the shape of the batches decides the last bits
            "batch_tokens": self.recording.batch_tokens,
        }

    @property
    def _excluded(self) -> tuple[int, ...]:
        return self.rows.excluded.ids

    def sums(self) -> dict[Split, SplitSums]:
        """Sums of every pair by split, without the rows of excluded documents."""
        sums: dict[Split, SplitSums] = {}
        every, excluded = self._of_every_document, self._excluded
        for split in SPLITS:
            sums[split] = self._split_sums(split, every)
            for name, count in sums[split].non_finite.items():
                side, _, layer = name.partition(".")
                log.warning(
                    "%s: %d tokens of %s layer %s are infinite or undefined and are excluded",
                    split,
                    count,
                    side,
                    layer,
                )
            if excluded:
                some = self._split_sums(split, every.of_documents(excluded, excluded=False))
                sums[split] = replace(sums[split], moments=sums[split].moments.without(some.moments))
        return sums

    @property
    def _of_every_document(self) -> Selection:
        return replace(self.rows.of(self.layers).selection, documents=None)

    def _split_facts(self, split: Split, selection: Selection) -> dict[str, Any]:
        documents = selection.documents
        return {**self.facts, "split": split, **({"documents": documents.ids} if documents else {})}

    def _split_sums(self, split: Split, selection: Selection) -> SplitSums:
        """Sums of one split of a selection."""
        packed = self.rows.text.packed
        which = f"both models, {split}{', excluded documents' if selection.documents else ''}"

        def make(partial: Path) -> Mapping[str, Tensor]:
            with (
                self.monitor.stage("moments of the grid"),
                self.monitor.progress(which, packed.rows(split)) as advance,
            ):
                return self._sum(split, advance, selection, partial)

        facts = self._split_facts(split, selection)
        cached: Mapping[str, Tensor] = self.rows.cache.resumed("atlas", facts, make, TENSORS, split)
        tensors = dict(cached)
        counts = zip(self._columns, tensors.pop("non_finite").tolist(), strict=True)
        return SplitSums(GridMoments.from_tensors(tensors), {name: count for name, count in counts if count})

    @property
    def _columns(self) -> list[str]:
        return [f"{side}.{layer}" for side in SIDES for layer in self.layers.of(side).layers]

    @cached_property
    def _device(self) -> torch.device:
        """Where rows are multiplied, which is many times the pass's own work, and pairs are solved."""
        return with_float64(self.pair.target.device)

    def _no_rows(self) -> GridMoments:
        """Sums without a row, on that device where they fit."""
        source, target = self.layers
        needed = self.memory_bytes - (COPIES - 1) * self.copy_bytes
        device = with_room(self._device, needed, "the sums of the grid")
        products = self.rows.settings.products
        return GridMoments(
            source.layers, source.width, target.layers, target.width, products=products, device=device
        )

    def _sum(
        self, split: Split, advance: Advance, selection: Selection, partial: Path
    ) -> Mapping[str, Tensor]:
        """One split's sums, from the checkpoint `partial` on where there is one."""
        packed, sums = self.rows.text.packed, self._no_rows()
        non_finite, done = dict.fromkeys(self._columns, 0), 0
        if partial.is_file():
            with reading(partial):
                tensors = load_tensors(partial)
                done = int(tensors.pop("sequences"))
                counts = tensors.pop("non_finite").tolist()
                non_finite = dict(zip(self._columns, counts, strict=True))
                sums = GridMoments.from_tensors(tensors, sums.device)
                del tensors
        written = done
        advance(done * packed.context)
        for rows in paired_rows(
            self.pair.source,
            self.pair.target,
            selection,
            packed,
            split,
            medians=self.states.median_norms,
            batch_tokens=self.recording.batch_tokens,
            non_finite=self.recording.non_finite,
            start=done,
            device=self._device,
        ):
            sums.update(rows.source, rows.target)
            for name, count in rows.non_finite.items():
                non_finite[name] += count
            advance((rows.sequences - done) * packed.context)
            done = rows.sequences
            if done - written >= self.settings.checkpoint_every and done < len(packed.splits[split]):
                excluded = tensor(list(non_finite.values()))
                save_tensors(partial, {**sums.tensors(), "sequences": tensor([done]), "non_finite": excluded})
                written = done
        return {**sums.tensors(), "non_finite": tensor(list(non_finite.values()))}

    @property
    def _cells_facts(self) -> dict[str, Any]:
        excluded = {"excluded": self._excluded} if self._excluded else {}
        return {**self.facts, **excluded, "vectors": self.prompts, "bias": self.rows.settings.bias}

    @property
    def _cells_path(self) -> Path:
        return self.rows.cache.path("atlas", self._cells_facts, JSON.suffix, "cells")

    def cells(self, states: Mapping[str, ContrastStates]) -> dict[str, Any]:
        """`atlas`, a cell for every pair; `rows` by split; and by split `non_finite`.

        The last are tokens that were excluded for being infinite or undefined at a layer, by `source.LAYER`
        and `target.LAYER`.
        """

        def make() -> dict[str, Any]:
            sums = self.sums()
            source, target = self.layers
            pairs = len(source.layers) * len(target.layers)
            with self.monitor.stage("atlas"), self.monitor.progress("pairs of layers", pairs) as advance:
                cells = atlas(
                    sums["train"].moments,
                    sums["validation"].moments,
                    sums["test"].moments,
                    source,
                    target,
                    {name: (each.source_vector, each.target_vector) for name, each in states.items()},
                    bias=self.rows.settings.bias,
                    device=self._device,
                    progress=lambda _done, _all: advance(1),
                )
            return {
                "rows": {split: each.moments.count for split, each in sums.items()},
                "non_finite": {split: dict(each.non_finite) for split, each in sums.items()},
                "atlas": [asdict(cell) for cell in cells],
            }

        cells: dict[str, Any] = self.rows.cache.made_once("atlas", self._cells_facts, make, JSON, "cells")
        return cells
