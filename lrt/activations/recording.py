"""Running both models over the packed corpus and writing their states down.

What a shard holds depends on the plan and its place alone, never on what ran before it, so a
recording that was killed goes on at its first missing shard and ends with the same bytes as one
that was not. Finished shards are listed in a journal with their checksums; the manifest takes its
place at the very end. For the same reason shards may be recorded by different processes (`shares`), and a
damaged one by itself (`repair`).
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lrt.activations.errors import (
    DiskTooSmall,
    NonFiniteActivations,
    StoreBusy,
    StoreCorrupt,
    StoreForeign,
    StoreMissing,
    StoreUnwritable,
)
from lrt.activations.manifest import (
    SIDES,
    Manifest,
    ModelStates,
    NonFinite,
    RecordingPlan,
    Shard,
    ShardPlan,
    Side,
    Stored,
    check_same_plan,
    dtype_name,
)
from lrt.activations.median import streaming_median
from lrt.activations.quantised import Quantised, massive_rows
from lrt.activations.shares import SHARES, RecordingWorker, share_folders
from lrt.activations.store import MANIFEST, ActivationStore, check_shard, file_digest, token_digest
from lrt.corpora.packing import PackedCorpus
from lrt.corpora.splits import SPLITS
from lrt.storage.durable import one_writer, sweep, sync_folder, write_durably
from lrt.storage.sealed import canonical, read_sealed, write_sealed

if TYPE_CHECKING:
    from lrt.models import LanguageModel

log = logging.getLogger(__name__)

JOURNAL = "recording.json"
Progress = Callable[[int, int], None]  # rows done, rows in all

_VERSIONS_THAT_MATTER = ("torch", "transformers", "safetensors")


def plan_recording(
    source: LanguageModel,
    target: LanguageModel,
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
    """What `record` would write: rows, bytes on disk, shards. Runs no model.

    Args:
        source_layers, target_layers: zero-based decoder blocks.
        identity: what else determines the bytes (models' revisions and weights, tokenizer), as
            plain JSON values; a store with another identity is refused.
        rows_per_shard: rows in one file; rounded down to whole blocks.
        batch_tokens: tokens in one forward pass; rounded down to whole blocks.
        non_finite: whether a state that is infinite or undefined ends the recording, or is counted for its
            layer and leaves every fit of it (its norm is recorded as infinite, its entries as zeros).
        states: whether states are stored in the dtype that the models ran in, or in a byte an entry.

    Raises ValueError for a layer that a model does not have, and for sizes that are not positive.
    """
    for name, value in (("rows_per_shard", rows_per_shard), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise ValueError(f"recording.{name} is {value}; it must be at least 1")
    if len(corpus.splits["train"]) == 0:
        raise ValueError("the corpus has no training block; raise corpus.tokens.train")
    return RecordingPlan(
        source=_states(source, "source", source_layers),
        target=_states(target, "target", target_layers),
        corpus=corpus.digest,
        groups=corpus.groups,
        context=corpus.context,
        blocks={split: len(corpus.splits[split]) for split in SPLITS},
        rows_per_shard=rows_per_shard,
        batch_tokens=batch_tokens,
        identity=json.loads(canonical(dict(identity or {}))),
        versions=_versions(),
        non_finite=non_finite,
        states=states,
    )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS_THAT_MATTER}


def _states(model: LanguageModel, side: Side, layers: Sequence[int]) -> ModelStates:
    wanted = tuple(sorted(set(layers)))
    if not wanted:
        raise ValueError(f"layers.{side} is empty; name at least one block")
    for layer in wanted:
        if not 0 <= layer < model.depth:
            raise ValueError(
                f"layers.{side}={layer} is out of range: {model.spec.name} has blocks 0 to {model.depth - 1}"
            )
    return ModelStates(model.spec.name, wanted, model.width, dtype_name(model.dtype))


def record(
    folder: str | Path,
    source: LanguageModel,
    target: LanguageModel,
    plan: RecordingPlan,
    corpus: PackedCorpus,
    *,
    progress: Progress | None = None,
    missing: Literal["record", "refuse"] = "record",
) -> ActivationStore:
    """Records both models' states over the corpus into `folder`, or goes on with it.

    A complete store of the same plan is opened as it is. Shares that lie in the folder are taken in.
    Memory is one shard (and its copy while it is written), whatever the number of rows.

    Args:
        plan: of `plan_recording`, for these models and this corpus.
        progress: called with rows done and rows in all, after each forward pass of both models.
        missing: whether shards that no share holds are recorded, or refused: a merge runs no model.

    Raises:
        DiskTooSmall: before any work where the disk has too little room, or while writing where it
            filled up; what was recorded is kept.
        NonFiniteActivations: a state is infinite or undefined, and the plan refuses it; names model,
            layer and token.
        StoreForeign: the folder holds (part of) another recording.
        StoreCorrupt: the folder holds a complete store that is damaged.
        StoreMissing: shards are missing and refused; names the shares to record.
        StoreBusy: another process records into the folder, or a share of it.
        StoreUnwritable: the folder cannot be made or written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return _opened(folder, plan)
    with _one_recorder(folder):
        if (folder / MANIFEST).is_file():  # finished by another process since the look above
            return _opened(folder, plan)
        sweep(folder)
        if missing == "refuse":  # nothing is recorded here, so this process's versions do not count
            plan = replace(plan, versions=_versions_of_shares(folder) or plan.versions)
        done = _read_journal(folder, plan)
        _take_in_shares(folder, plan, done, missing)
        _fill(folder, plan, plan.shards, done, source, target, corpus, progress)
        with _disk_may_fill(folder):
            _finish(folder, plan, done)
    return _opened(folder, plan)


def record_share(
    folder: str | Path,
    share: RecordingWorker,
    source: LanguageModel,
    target: LanguageModel,
    plan: RecordingPlan,
    corpus: PackedCorpus,
    *,
    progress: Progress | None = None,
) -> Path:
    """Records one share of the store in `folder`, or goes on with it; returns the share's own folder.

    Processes with different shares need nothing of each other. `record` takes in what they wrote, wherever
    they ran: their folders need only lie where `RecordingWorker.folder` says. Nothing is done where the store is
    complete. Raises as `record`.
    """
    folder = Path(folder)
    place = share.folder(folder)
    if (folder / MANIFEST).is_file():
        _opened(folder, plan)
        return place
    mine = share.of(plan.shards)
    with _one_recorder(place):
        sweep(place)
        # the store itself may hold some: of a recording that was stopped, or one that was repaired
        done = _read_journal(folder, plan, only=mine) | _read_journal(place, plan, or_in=folder)
        _fill(place, plan, mine, done, source, target, corpus, progress, until=folder / MANIFEST)
    return place


def repair(folder: str | Path) -> list[str]:
    """Compares every file of a complete store with its checksum and takes out those that differ, so that
    `record` records them, and nothing else, again. Returns their names; the store stays as it is if there
    are none.

    Raises StoreMissing where there is no complete store, StoreCorrupt where the manifest itself is damaged
    (nothing then says what the files should hold), StoreForeign where files are damaged and the store was
    recorded with other versions of libraries (what were recorded now would not be the same bytes), StoreBusy
    and StoreUnwritable as `record`.
    """
    folder = Path(folder)
    manifest = ActivationStore.manifest_of(folder)
    with _one_recorder(folder):
        done, bad = {}, []
        for shard in manifest.shards:
            try:
                check_shard(folder, shard, manifest.plan, "it is to be recorded again", full=True)
            except StoreCorrupt as error:
                log.warning("%s", error)
                bad.append(shard.file)
            else:
                done[shard.file] = shard
        if bad and manifest.plan.versions != _versions():
            raise StoreForeign(
                f"{', '.join(bad)} of {folder} are damaged, and the store was recorded with "
                f"{dict(manifest.plan.versions)}, not with {_versions()}: repair it with those, or delete "
                "the folder, and the next run records it anew"
            )
        if bad:
            _write_journal(folder, manifest.plan, done)
            (folder / MANIFEST).unlink()
            sync_folder(folder)
    return bad


def _one_recorder(folder: Path) -> AbstractContextManager[None]:
    return one_writer(folder, "recording into", StoreBusy, StoreUnwritable)


def _fill(
    folder: Path,
    plan: RecordingPlan,
    wanted: Sequence[ShardPlan],
    done: dict[str, Shard],
    source: LanguageModel,
    target: LanguageModel,
    corpus: PackedCorpus,
    progress: Progress | None,
    until: Path | None = None,
) -> None:
    """Records those of `wanted` that are not done, keeping the folder's journal; no more of them once the
    file `until` is there.
    """
    if corpus.digest != plan.corpus:
        raise ValueError(f"the plan is of the corpus {plan.corpus}, not of {corpus.digest}")
    have = [done[shard.file] for shard in wanted if shard.file in done]
    check_disk(plan, folder, [shard for shard in wanted if shard.file not in done])
    with _disk_may_fill(folder):
        _write_journal(folder, plan, done)
    rows, every = sum(shard.rows for shard in have), plan.rows_of(wanted)
    for shard_plan in wanted:
        if shard_plan.file in done:
            continue
        if until is not None and until.is_file():
            log.info("%s is there: the store is complete without this share", until)
            return

        def tell(rows_of_shard: int, before: int = rows) -> None:
            if progress is not None:
                progress(before + rows_of_shard, every)

        tensors = _run_models(shard_plan, plan, source, target, corpus, tell)
        bad = _non_finite(tensors, plan, shard_plan)
        with _disk_may_fill(folder):
            done[shard_plan.file] = _write_shard(folder, shard_plan, _stored(tensors, plan), bad)
            _write_journal(folder, plan, done)
        rows += done[shard_plan.file].rows


def _versions_of_shares(folder: Path) -> Mapping[str, str] | None:
    """What the first share that says so was recorded with."""
    for place in share_folders(folder):
        try:
            found = read_sealed(place / JOURNAL)["plan"]["versions"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, dict):
            return found
    return None


def _take_in_shares(
    folder: Path, plan: RecordingPlan, done: dict[str, Shard], missing: Literal["record", "refuse"]
) -> None:
    """Moves what shares have recorded into the store's folder; nothing is moved where a shard is missing
    that may not be.

    Killed at any moment it can be done again: a file is whole in one of the two places, and its share's
    journal, which vouches for it, stays until the store is complete.
    """
    offered: dict[str, tuple[Path, Shard]] = {}
    with ExitStack() as holding:
        for place in share_folders(folder):
            holding.enter_context(_one_recorder(place))
            sweep(place)
            for shard in _read_journal(place, plan, or_in=folder).values():
                if shard.file not in done:
                    offered.setdefault(shard.file, (place, shard))
        if missing == "refuse":
            _refuse_missing(folder, plan, {*done, *offered})
        for place, shard in offered.values():
            if (place / shard.file).is_file():
                os.replace(place / shard.file, folder / shard.file)  # noqa: PTH105 (as durable.py)
            done[shard.file] = shard
        sync_folder(folder)


def _refuse_missing(folder: Path, plan: RecordingPlan, done: Collection[str]) -> None:
    shards = plan.shards
    missing = [shard.file for shard in shards if shard.file not in done]
    if not missing:
        return
    counts = {int(place.name.split("-of-")[1]) for place in share_folders(folder)}
    told = ""
    for count in sorted(counts):
        wanted = [
            f"{number}/{count}"
            for number in range(count)
            if any(shard.file in missing for shard in RecordingWorker(number, count).of(shards))
        ]
        told += f"; of {count} shares record {', '.join(wanted)}"
    raise StoreMissing(
        f"{len(missing)} of {len(shards)} shards of {folder} are not recorded yet ({', '.join(missing[:4])}"
        f"{', ...' if len(missing) > 4 else ''}){told}; or record what is missing in this process"
    )


def _opened(folder: Path, plan: RecordingPlan) -> ActivationStore:
    store = ActivationStore.open(folder, expect=plan)
    # the journals have no use beside a manifest; a process killed between the two leaves them
    (folder / JOURNAL).unlink(missing_ok=True)
    for place in share_folders(folder):
        try:
            with _one_recorder(place):
                shutil.rmtree(place)
        except StoreBusy:
            log.warning("%s is being recorded still, though the store is complete; end that process", place)
    with suppress(OSError):  # not empty, or not there
        (folder / SHARES).rmdir()
    return store


def check_disk(plan: RecordingPlan, folder: Path, wanted: Sequence[ShardPlan] | None = None) -> None:
    """Tells the disk need of the shards that are still to be written (all of them, if not told) in the log,
    and raises DiskTooSmall where the room is less.
    """
    shards = plan.shards if wanted is None else wanted
    rows, need = plan.rows_of(shards), plan.bytes_of(shards)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    log.info(
        "recording %s rows of %s bytes: %s still to write, %s free in %s",
        f"{rows:,}",
        f"{plan.bytes_per_row:,}",
        _size(need),
        _size(free),
        folder,
    )
    if need > free:
        raise DiskTooSmall(
            f"recording needs {need} bytes ({_size(need)}: {rows:,} rows of "
            f"{plan.bytes_per_row} bytes) and {folder} has {free} bytes ({_size(free)}) free; "
            "make room, lower corpus.tokens, record fewer layers, or put the artifacts on "
            "another disk (paths.artifacts)"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _run_models(
    shard: ShardPlan,
    plan: RecordingPlan,
    source: LanguageModel,
    target: LanguageModel,
    corpus: PackedCorpus,
    tell: Callable[[int], None],
) -> dict[str, Tensor]:
    """Both models over one shard's blocks. Batches begin at the shard's first block, so that the
    shapes of the products, and with them the last bits, are the same in a continued recording."""
    blocks = corpus.splits[shard.split]
    here = slice(shard.first_block, shard.first_block + shard.blocks)
    tokens = torch.from_numpy(np.ascontiguousarray(blocks.tokens[here]))
    context, rows = plan.context, shard.blocks * plan.context
    tensors = {
        name: torch.empty(column.shape(rows), dtype=column.dtype) for name, column in plan.columns.items()
    }
    tensors["token"] = tokens.reshape(-1)
    tensors["position"] = torch.arange(context, dtype=torch.int32).repeat(shard.blocks)
    tensors["document"] = torch.from_numpy(blocks.documents[here].reshape(-1).copy())
    tensors["group"] = torch.from_numpy(blocks.groups[here].reshape(-1).astype(np.int32))
    each = max(1, plan.batch_tokens // context)
    models: dict[Side, LanguageModel] = {"source": source, "target": target}
    for first in range(0, shard.blocks, each):
        batch = tokens[first : first + each].to(torch.int64)  # [b, context]
        span = slice(first * context, first * context + batch.numel())
        for side in SIDES:
            model, states = models[side], plan.side(side)
            hidden = model.hidden_states(batch.to(model.device), states.layers)
            for layer in states.layers:
                flat = hidden[layer].reshape(-1, states.width)  # [b * context, d]
                assert dtype_name(flat.dtype) == states.dtype, "a model's states have its dtype"
                # over the widest dtype: bf16 norms would be off in the third digit
                norms = torch.linalg.vector_norm(flat.float(), dim=-1)
                tensors[f"{side}.{layer}"][span] = flat.cpu()
                tensors[f"norm.{side}.{layer}"][span] = norms.cpu()
        tell(span.stop)
    return tensors


def _non_finite(tensors: dict[str, Tensor], plan: RecordingPlan, shard: ShardPlan) -> dict[str, int]:
    """How many rows of each column are infinite or undefined, after they were made to leave; or refuses."""
    found = {}
    for side in SIDES:
        for layer in plan.side(side).layers:
            # a row with an infinite or undefined entry has such a norm, and norms are cheap to look through
            norms = tensors[f"norm.{side}.{layer}"]
            bad = (~torch.isfinite(norms)).nonzero().flatten()
            if len(bad) == 0:
                continue
            if plan.non_finite == "refuse":
                raise _refused(tensors, bad, side, layer, plan, shard)
            found[f"{side}.{layer}"] = len(bad)
            norms[bad] = torch.inf
            tensors[f"{side}.{layer}"][bad] = 0
            log.warning(
                "%s: %d rows of %s layer %d are non-finite and leave every fit",
                shard.file,
                len(bad),
                side,
                layer,
            )
    return found


def _refused(
    tensors: Mapping[str, Tensor],
    bad: Tensor,
    side: Side,
    layer: int,
    plan: RecordingPlan,
    shard: ShardPlan,
) -> NonFiniteActivations:
    row = int(bad[0])
    states = plan.side(side)
    return NonFiniteActivations(
        f"the {side} model {states.name} gives non-finite hidden states at layer {layer}: "
        f"{len(bad)} of {shard.blocks * plan.context} rows of {shard.file}, first in "
        f"{shard.split} block {shard.first_block + row // plan.context} at position "
        f"{row % plan.context} (token {int(tensors['token'][row])}, document "
        f"{int(tensors['document'][row])}). It ran in {states.dtype}; run it in bfloat16 or "
        f"float32 (pair.{side}.dtype), or leave such rows out (recording.non_finite=exclude)"
    )


def _stored(tensors: dict[str, Tensor], plan: RecordingPlan) -> dict[str, Tensor]:
    """What a shard's file holds of its columns."""
    if plan.states == "native":
        return tensors
    found = {}
    for name, column in plan.columns.items():
        tensor = tensors.pop(name)  # let go as soon as it is quantised
        if not column.width:
            found[name] = tensor
            continue
        # facts come after all states, so norms are still there
        made = Quantised.of(tensor, tensors[f"norm.{name}"])
        found[name] = made.values
        found |= {f"{name}.{part}": getattr(made, part) for part in ("step", "massive", "where")}
    return found


def _write_shard(
    folder: Path, shard: ShardPlan, tensors: dict[str, Tensor], non_finite: Mapping[str, int]
) -> Shard:
    path = folder / shard.file
    written: dict[str, Any] = {"tokens": token_digest(tensors["token"])}
    massive = {
        name.removeprefix("norm."): int(massive_rows(norms).sum())
        for name, norms in tensors.items()
        if name.startswith("norm.")
    }

    def write(temp: Path) -> None:
        save_file(tensors, temp)
        written.update(bytes=temp.stat().st_size, sha256=file_digest(temp))

    write_durably(path, write)
    return Shard(
        shard.file,
        shard.split,
        len(tensors["token"]),
        non_finite=non_finite,
        massive=massive,
        **written,
    )


def _write_journal(folder: Path, plan: RecordingPlan, done: Mapping[str, Shard]) -> None:
    write_sealed(
        folder / JOURNAL, {"plan": plan.as_json(), "shards": [asdict(shard) for shard in done.values()]}
    )


def _read_journal(
    folder: Path,
    plan: RecordingPlan,
    or_in: Path | None = None,
    only: Sequence[ShardPlan] | None = None,
) -> dict[str, Shard]:
    """The shards of an unfinished recording that are whole, checksums included; files that are not in the
    folder are looked for `or_in` another.

    only  Leave others out, unread.

    Raises StoreForeign where the folder holds part of another recording.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return {}
    try:
        journal = read_sealed(path)
        found, entries = journal["plan"], [Shard(**entry) for entry in journal["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is corrupt (%s); recording begins anew", path, error)
        return {}
    fix_hint = f"delete the folder {folder} and run the command again"
    check_same_plan(found, plan.as_json(), f"the unfinished recording {folder}", fix_hint, layout=True)
    whole: dict[str, Shard] = {}
    planned = {shard.file: shard for shard in plan.shards}
    asked = set(planned) if only is None else {shard.file for shard in only}
    for shard in entries:
        # a name that the plan does not give might lead out of the folder
        if shard.file not in planned or not planned[shard.file].matches(shard, plan.context):
            log.warning("%s lists %r, which is none of the shards; it is left alone", path, shard.file)
            continue
        if shard.file not in asked:
            continue
        moved = or_in is not None and not (folder / shard.file).is_file()
        try:
            check_shard(or_in if or_in and moved else folder, shard, plan, fix_hint, full=True)
        except StoreCorrupt as error:
            log.warning("%s; recording this shard again", error)
        else:
            whole[shard.file] = shard
    if whole:
        log.info("going on with %s: %d of %d shards are there", folder, len(whole), len(plan.shards))
    return whole


def _finish(folder: Path, plan: RecordingPlan, done: Mapping[str, Shard]) -> None:
    shards = tuple(done[shard.file] for shard in plan.shards)
    store = ActivationStore(folder, Manifest(plan, shards, {}), "")
    medians = {
        f"{side}.{layer}": _median_norm(store, f"norm.{side}.{layer}")
        for side in SIDES
        for layer in plan.side(side).layers
    }
    text = Manifest(plan, shards, medians).dumps()
    write_durably(folder / MANIFEST, text.encode())


def _median_norm(store: ActivationStore, column: str) -> float:
    """Over train rows without position 0, whose norm is hundreds of times the others'."""

    def norms() -> Iterator[Tensor]:
        for rows in store.stream("train", [column, "position"]):
            yield rows[column][rows["position"] > 0]

    return streaming_median(norms)


@contextmanager
def _disk_may_fill(folder: Path) -> Iterator[None]:
    """Says what to do when the disk fills in the middle of the work."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskTooSmall(
            f"the disk filled up while recording into {folder} ({error}); the finished shards are "
            "kept: make room and run the same command again"
        ) from error
