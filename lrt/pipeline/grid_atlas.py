"""make atlas: a figure for every pair of a grid of layers, from one pass of both models and no store.

python -m lrt.runtime.atlas atlas.source=8 atlas.target=8 [the settings of train.py]
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import wandb
from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import tensor

from lrt.activations import PartRules, paired_rows
from lrt.corpora import SPLITS, Split
from lrt.mapping import GridMoments, LayerConcat, atlas, atlas_bytes
from lrt.mapping.moments import CHUNK_ROWS
from lrt.models import LanguageModel, check_same_tokenizer
from lrt.report.analysis import atlas_figure, atlas_metrics, atlas_table, pairs_table
from lrt.report.atlas import lost_table, write_atlas_report
from lrt.report.numerals import blocks_told
from lrt.runtime.caches import cache_read
from lrt.runtime.entry import command
from lrt.runtime.pipeline import describe
from lrt.runtime.provenance import provenance
from lrt.runtime.schema import Config, ConfigError, Depth, read_beside
from lrt.runtime.session import Session, without_place
from lrt.runtime.storeless import MEDIAN_TOKENS, pass_medians
from lrt.runtime.vectors import Vectors
from lrt.steering import prompts_digest
from lrt.storage.durable import one_writer, sweep
from lrt.storage.fingerprint import fingerprint
from lrt.storage.sealed import load_tensors, read_sealed, save_tensors, write_sealed

# by name: as a program this module is __main__, which no one shows
log = logging.getLogger("lrt.runtime.atlas")

# The sums of each split, and those of one more while they are written or read again.
COPIES = len(SPLITS) + 1
SUMS_LAYOUT = 2  # of a split's file: the sums, the blocks in them, the non-finite tokens of these
TOLD = 10  # pairs in the terminal


def _blocks_of(value: Any) -> Any:
    match value:
        case "all":
            return value
        case int() if value >= 1 and not isinstance(value, bool):
            return value
        case [_, *_] if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return value
    raise ValueError(
        f"{value!r} names no blocks: give all, a number of evenly spread blocks (1 or more), or a list of "
        "blocks or depths in [0, 1)"
    )


Blocks = Annotated[str | int | tuple[Depth, ...], BeforeValidator(_blocks_of)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AtlasSettings:
    """What `conf/atlas.yaml` holds beside the settings of train.py.

    source, target    `all`, a number of evenly spread blocks, or a list of blocks or depths in [0, 1).
    memory_gb         Most memory for the sums and the states of a batch, in 1e9 bytes.
    checkpoint_every  Blocks of the corpus between two writings of the sums; changes no figure.
    """

    source: Blocks = "all"
    target: Blocks = "all"
    memory_gb: float = 24.0
    checkpoint_every: int = 1024

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ValueError(f"atlas.memory_gb={self.memory_gb}; it must be above 0")
        if self.checkpoint_every < 1:
            raise ValueError(f"atlas.checkpoint_every={self.checkpoint_every}; it must be at least 1")


def grid_layers(wanted: str | int | tuple[Depth, ...], model: LanguageModel, setting: str) -> tuple[int, ...]:
    """The blocks that a setting names, from first to last.

    A number `n` spreads them from the first block to the last; 1 is the block at half depth. Raises
    ConfigError for more than the model has and a block named twice, ValueError for one it does not have.
    """
    depth = model.depth
    if wanted == "all":
        return tuple(range(depth))
    if isinstance(wanted, int):
        if wanted > depth:
            raise ConfigError(
                f"{setting}={wanted} is more blocks than {model.spec.name} has: give 1 to {depth}, or all"
            )
        if wanted == 1:
            return (depth // 2,)
        # whole-numbered halves up: steps of at least one block never meet
        return tuple((2 * i * (depth - 1) + wanted - 1) // (2 * (wanted - 1)) for i in range(wanted))
    assert isinstance(wanted, tuple), "all is the only word that is let in"
    layers = [model.resolve_layer(layer, setting) for layer in wanted]
    if len(set(layers)) < len(layers):
        raise ConfigError(f"{setting}={list(wanted)} names a block twice: blocks {layers}; name each once")
    return tuple(sorted(layers))


@dataclass(frozen=True)
class _Sums:
    """Of one split."""

    moments: GridMoments
    non_finite: Mapping[str, int]  # tokens by `source.BLOCK` and `target.BLOCK`, where there are some


class Atlas(Vectors):
    """The grid of a config: its sums, made once and gone on with, and its cells."""

    def __init__(self, config: Config, session: Session, settings: AtlasSettings) -> None:
        # no null is measured here
        super().__init__(
            replace(config, evaluation=replace(config.evaluation, untrained_source=False)), session
        )
        self.settings = settings

    # -- the grid ------------------------------------------------------------------------------

    @cached_property
    def recorded_stacks(self) -> tuple[LayerConcat, LayerConcat]:
        """The grid: the blocks whose states and vectors are read, in place of a store's."""
        source = grid_layers(self.settings.source, self.source, "atlas.source")
        target = grid_layers(self.settings.target, self.target, "atlas.target")
        return LayerConcat(source, self.source.width), LayerConcat(target, self.target.width)

    @property
    def copy_bytes(self) -> int:
        """Bytes of the sums of one split; as many lie on the disk."""
        source, target = self.recorded_stacks
        return atlas_bytes(source.layers, source.width, target.layers, target.width, 1)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all sums and of a batch's states: as they come, as rows, and as a chunk of them."""
        batch = max(self.config.recording.batch_tokens, self.config.corpus.context)
        states = 0
        for stack, model in zip(self.recorded_stacks, (self.source, self.target), strict=True):
            states += stack.total * (batch * (model.dtype.itemsize + 4) + min(batch, CHUNK_ROWS) * 4)
        return COPIES * self.copy_bytes + states

    def check(self) -> None:
        """Everything that can be known to be wrong before the pass, and what it will take.

        Raises ValueError (of the folder concerned) for layers, tokenizers, corpus files and behaviours
        that cannot be run, and for a grid that does not fit in `atlas.memory_gb` or on the disk.
        """
        with self.session.stage("models"):
            source, target = self.recorded_stacks
            samples = [text for b in self.suite for text in (*b.positives[:4], *b.negatives[:4])]
            check_same_tokenizer(self.source.tokenizer, self.target.tokenizer, samples)
            pairs = len(source.layers) * len(target.layers)
            log.info(
                "%d pairs: %s %s of %d x %s %s of %d; %.3g GB of memory beside the models, %.3g GB on disk",
                pairs,
                self.source.spec.name,
                blocks_told(source.layers),
                self.source.depth,
                self.target.spec.name,
                blocks_told(target.layers),
                self.target.depth,
                self.memory_bytes / 1e9,
                COPIES * self.copy_bytes / 1e9,
            )
            if not self.cells_file.is_file():
                self._check_memory()
                self._check_disk()

    def _check_memory(self) -> None:
        source, target = self.recorded_stacks
        if self.memory_bytes > self.settings.memory_gb * 1e9:
            raise ConfigError(
                f"a grid of {len(source.layers)} x {len(target.layers)} layers needs "
                f"{self.memory_bytes / 1e9:.3g} GB of memory beside the models and "
                f"atlas.memory_gb={self.settings.memory_gb:g}: thin the grid (atlas.source=8 atlas.target=8 "
                "takes 8 evenly spread blocks of each), lower recording.batch_tokens, or raise "
                "atlas.memory_gb"
            )

    def _check_disk(self) -> None:
        there = sum(file.stat().st_size for split in SPLITS if (file := self._sums_file(split)).is_file())
        need, free = COPIES * self.copy_bytes - there, shutil.disk_usage(self.artifacts).free
        if need > free:
            raise ConfigError(
                f"the sums of this grid need {need / 1e9:.3g} GB on disk and {self.artifacts} has "
                f"{free / 1e9:.3g} GB free: make room, thin the grid (atlas.source, atlas.target), or set "
                "paths.artifacts to another disk"
            )

    # -- the sums ------------------------------------------------------------------------------

    @cached_property
    def sums_fingerprint(self) -> str:
        """Of what determines the sums, to the last bit."""
        return fingerprint(
            {
                "models": self.identities,
                "layers": [stack.layers for stack in self.recorded_stacks],
                "corpus": self.corpus_digest,
                "filter": self.config.filter,
                "pool": self.config.pool,
                "rows": self.part_rules,
                "products": self.config.products,
                "non_finite": self.config.recording.non_finite,
                "median_tokens": MEDIAN_TOKENS,
                "layout": SUMS_LAYOUT,
                # the shape of the batches decides the last bits
                "batch_tokens": self.config.recording.batch_tokens,
            }
        )

    @cached_property
    def folder(self) -> Path:
        """Where the sums and the cells are kept."""
        return self.artifacts / "atlas" / self.sums_fingerprint

    def _sums_file(self, split: Split) -> Path:
        return self.folder / f"{split}.safetensors"

    @cached_property
    def sums(self) -> dict[Split, _Sums]:
        """What is summed of every pair by split: found, gone on with, or gathered in one pass."""
        found: dict[Split, _Sums] = {}
        with (
            self.session.stage("moments of the grid"),
            one_writer(self.folder, "making the atlas in", ConfigError, ConfigError),
        ):
            sweep(self.folder)
            total = sum(self.packed.rows(split) for split in SPLITS)
            medians = pass_medians(self, self.folder / "median_norms.json")
            with self.session.progress("both models", total) as advance:
                for split in SPLITS:
                    found[split] = self._summed(split, medians, advance)
                    for name, count in found[split].non_finite.items():
                        side, _, layer = name.partition(".")
                        log.warning(
                            "%s: %d tokens of %s layer %s are non-finite and leave every fit",
                            split,
                            count,
                            side,
                            layer,
                        )
        return found

    def _summed(self, split: Split, medians: dict[str, float], advance: Callable[[int], None]) -> _Sums:
        """One split's sums, written every so many blocks with the number of blocks that are in them and the
        tokens of these that are not finite."""
        source, target = self.recorded_stacks
        blocks, file = self.packed.splits[split], self._sums_file(split)
        grid = source.layers, source.width, target.layers, target.width
        columns = [f"source.{s}" for s in source.layers] + [f"target.{t}" for t in target.layers]
        sums, done = GridMoments(*grid, products=self.config.products), 0
        lost = dict.fromkeys(columns, 0)
        if file.is_file():
            with cache_read(file):
                tensors = load_tensors(file)
                done = int(tensors.pop("blocks"))
                lost = dict(zip(columns, tensors.pop("non_finite").tolist(), strict=True))
                sums = GridMoments.from_tensors(tensors)
                del tensors
        written = done
        advance(done * self.packed.context)
        for rows in paired_rows(
            self.source,
            self.target,
            source.layers,
            target.layers,
            blocks,
            filter=self.config.filter,
            pool=self.config.pool,
            medians=medians,
            batch_tokens=self.config.recording.batch_tokens,
            non_finite=self.config.recording.non_finite,
            rules=PartRules.of(self.selected(), self.packed.groups),
            start=done,
        ):
            # the products are many times the pass's own work: they are made where the target runs
            x, y = (
                {layer: states.to(self.target.device) for layer, states in side.items()}
                for side in (rows.source, rows.target)
            )
            sums.update(x, y)
            for name, count in rows.non_finite.items():
                lost[name] += count
            advance((rows.blocks - done) * self.packed.context)
            done = rows.blocks
            if done - written >= self.settings.checkpoint_every or done == len(blocks):
                kept = {
                    **sums.tensors(),
                    "blocks": tensor([done]),
                    "non_finite": tensor(list(lost.values())),
                }
                save_tensors(file, kept)
                written = done
        return _Sums(sums, {name: count for name, count in lost.items() if count})

    # -- the cells -----------------------------------------------------------------------------

    @cached_property
    def cells_file(self) -> Path:
        """Where the cells of these sums with the suite's vectors are kept."""
        prompts = {
            name: prompts_digest(behaviour.positives, behaviour.negatives)
            for name, behaviour in self.contrasts.items()
        }
        name = fingerprint({"vectors": prompts, "bias": self.config.map.bias})
        return self.folder / f"cells-{name}.json"

    @cached_property
    def cells(self) -> dict[str, Any]:
        """`atlas`, a cell for every pair; `rows` by split; and by split `non_finite`, the tokens that left
        for being infinite or undefined at a block, by `source.BLOCK` and `target.BLOCK`. Made or found."""
        if not self.cells_file.is_file():
            self.packed  # noqa: B018  text that is too little is told first
            states = self.recorded_states  # then the prompts, which are few and can be wrong too
            sums = self.sums
            source, target = self.recorded_stacks
            pairs = len(source.layers) * len(target.layers)
            with self.session.stage("atlas"), self.session.progress("pairs of layers", pairs) as advance:
                cells = atlas(
                    sums["train"].moments,
                    sums["validation"].moments,
                    sums["test"].moments,
                    source,
                    target,
                    {name: (each.source_vector, each.target_vector) for name, each in states.items()},
                    bias=self.config.map.bias,
                    progress=lambda _done, _all: advance(1),
                )
            made = {
                "rows": {split: each.moments.count for split, each in sums.items()},
                "non_finite": {split: dict(each.non_finite) for split, each in sums.items()},
                "atlas": [asdict(cell) for cell in cells],
            }
            write_sealed(self.cells_file, made)
        with cache_read(self.cells_file):
            return read_sealed(self.cells_file)

    def results(self) -> dict[str, Any]:
        """Everything the page says, as plain data: `report/atlas.json`."""
        source, target = self.recorded_stacks
        return {
            "pair": {
                "name": self.config.pair.name,
                "source": describe(self.source),
                "target": describe(self.target),
            },
            "grid": {"source": source.layers, "target": target.layers},
            "pool": self.config.pool,
            **self.cells,
            "memory_gb": self.memory_bytes / 1e9,
            "seconds": self.session.seconds,
            "provenance": {
                **provenance(),
                "fingerprints": {"atlas": self.sums_fingerprint},
                "config": self.session.resolved["yaml"],
            },
        }


def main(composed: DictConfig) -> None:
    """The grid, one pass of both models, its page."""
    settings, rest = read_beside(composed, "atlas", AtlasSettings)
    session = Session.of(rest, "atlas")
    session.resolved = {
        **session.resolved,
        "settings": OmegaConf.to_container(composed, resolve=True),
        "yaml": without_place(OmegaConf.to_yaml(composed, resolve=True)),
    }
    with session:
        run = Atlas(session.config, session, settings)
        run.check()  # layers, tokenizers, memory: before anything costly
        results = run.results()
        page = write_atlas_report(results, Path(session.config.paths.report))
        for table in (pairs_table(results, TOLD), atlas_table(results), lost_table(results)):
            if table.rows:
                session.console.print(table.rich())
        session.console.print(f"atlas: {page}")
        session.tell_wandb(
            lambda run: run.log(
                {f"atlas/{m}": wandb.Image(atlas_figure(results, m)) for m in atlas_metrics(results)}
            )
        )


if __name__ == "__main__":
    sys.exit(command(main, "atlas"))
