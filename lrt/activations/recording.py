"""Recording both models' hidden states over a packed corpus into a store.

The bytes of a shard depend on the plan and the shard's place alone, not on what ran before. So a recording
that was killed continues at its first missing shard and ends with the same bytes. Finished shards are listed
with their checksums in a journal (`journal`); at the very end the manifest replaces it. For the same reason
different processes can record different shards (`shares`), and a damaged shard can be recorded again
(`repair`).
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lrt.activations.errors import DiskTooSmall, StoreBusy, StoreCorrupt, StoreForeign
from lrt.activations.journal import JOURNAL, read_journal, write_journal
from lrt.activations.locks import one_recorder
from lrt.activations.manifest import Manifest, Shard
from lrt.activations.paired_forward import PairedForward, facts_of
from lrt.activations.plan import RecordingPlan, ShardPlan, library_versions
from lrt.activations.shard_writer import ShardWriter, disk_may_fill
from lrt.activations.shares import SHARES, RecordingWorker, share_folders, take_in_shares, versions_of_shares
from lrt.activations.store import MANIFEST, ActivationStore, check_shard
from lrt.corpora.aligned_packing import PADDING
from lrt.corpora.sequences import PackedCorpus
from lrt.models.sides import SIDES, Side
from lrt.models.stacked import StateModel
from lrt.storage.durable import sweep, sync_folder, write_durably

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # tokens done, tokens in all


def record(
    folder: str | Path,
    source: StateModel,
    target: StateModel,
    plan: RecordingPlan,
    corpus: PackedCorpus,
    *,
    progress: Progress | None = None,
    missing: Literal["record", "refuse"] = "record",
) -> ActivationStore:
    """Record both models' states over the corpus into `folder`, or continue doing so.

    A complete store of the same plan is opened as it is. If another process records into the folder, or a
    worker records a share of it, waits for it with a line in the log. Shards that workers have recorded are
    moved into the store. A thread writes a shard while the models run over the next one, so memory is two
    shards, and once at the end four bytes per training token for the median of its norms.

    Args:
        plan: of `plan_recording`, for these models and this corpus.
        progress: called with tokens done and tokens in all, after each forward pass of both models.
        missing: `record` the shards that no worker has recorded, or `refuse` to: merging runs no model.

    Raises:
        DiskTooSmall: before any work if the disk has too little space, or during the recording if it fills
            up; finished shards stay.
        NonFiniteActivations: a state is infinite or NaN, and the plan refuses it; names model, layer and
            token.
        StoreForeign: the folder has (a part of) another recording.
        StoreCorrupt: the folder has a complete store that is damaged.
        StoreMissing: shards are missing and `missing` is `refuse`; names the shares to record.
        StoreUnwritable: the folder cannot be created or written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file() and not (folder / JOURNAL).is_file() and not share_folders(folder):
        return ActivationStore.open(folder, expect=plan)
    with one_recorder(folder, wait=True):
        if not (folder / MANIFEST).is_file():  # nor has a process finished it that this one waited for
            sweep(folder)
            if missing == "refuse":  # nothing is recorded here, so this process's versions do not matter
                plan = replace(plan, versions=versions_of_shares(folder) or plan.versions)
            done = read_journal(folder, plan)
            take_in_shares(folder, plan, done, complete=missing == "refuse")
            _fill(folder, plan, plan.shards, done, source, target, corpus, progress)
            with disk_may_fill(folder):
                _finish(folder, plan, done)
        store = ActivationStore.open(folder, expect=plan)
        _clean_up(folder)
    return store


def record_share(
    folder: str | Path,
    worker: RecordingWorker,
    source: StateModel,
    target: StateModel,
    plan: RecordingPlan,
    corpus: PackedCorpus,
    *,
    progress: Progress | None = None,
) -> Path:
    """Record one worker's share of the store in `folder`, or continue doing so; returns the worker's folder.

    Workers need nothing of each other. `record` moves their shards into the store, wherever they ran, if
    their folders are where `RecordingWorker.folder` says. If another process records the same share, waits
    for it with a line in the log. Does nothing if the store is complete. Raises as `record`.
    """
    folder = Path(folder)
    place = worker.folder(folder)
    if (folder / MANIFEST).is_file():
        ActivationStore.open(folder, expect=plan)
        return place
    shards = worker.of(plan.shards)
    with one_recorder(place, wait=True):
        if (folder / MANIFEST).is_file():  # finished meanwhile, and this worker's folder removed
            return place
        sweep(place)
        # the store itself may have some: of an interrupted recording, or after a repair
        done = read_journal(folder, plan, only={shard.file for shard in shards})
        done |= read_journal(place, plan, moved_to=folder)
        _fill(place, plan, shards, done, source, target, corpus, progress, until=folder / MANIFEST)
    return place


def repair(folder: str | Path) -> list[str]:
    """Remove the damaged shards of a complete store, so that `record` records them again and nothing else.

    Compares every file with its checksum. Returns the names of the damaged files; without any, the store is
    left as it is.

    Raises:
        StoreMissing: there is no complete store.
        StoreCorrupt: the manifest is damaged, so the right checksums are unknown.
        StoreForeign: files are damaged, and the store was recorded with other library versions, which would
            not give the same bytes.
        StoreBusy: another process is recording into the folder.
        StoreUnwritable: the folder cannot be written.
    """
    folder = Path(folder)
    manifest = ActivationStore.manifest_of(folder)
    with one_recorder(folder, wait=False):
        done, damaged = {}, []
        for shard in manifest.shards:
            try:
                check_shard(folder, shard, manifest.plan, "it must be recorded again", full=True)
            except StoreCorrupt as error:
                log.warning("%s", error)
                damaged.append(shard.file)
            else:
                done[shard.file] = shard
        if damaged and manifest.plan.versions != library_versions():
            raise StoreForeign(
                f"{', '.join(damaged)} of {folder} are damaged, and the store was recorded with "
                f"{dict(manifest.plan.versions)}, not with {library_versions()}: repair it with those "
                "versions, or delete the folder and run again to record everything"
            )
        if damaged:
            write_journal(folder, manifest.plan, done)
            (folder / MANIFEST).unlink()
            sync_folder(folder)
    return damaged


def _fill(
    folder: Path,
    plan: RecordingPlan,
    wanted: Sequence[ShardPlan],
    done: dict[str, Shard],
    source: StateModel,
    target: StateModel,
    corpus: PackedCorpus,
    progress: Progress | None,
    until: Path | None = None,
) -> None:
    """Record the wanted shards that are not done, and keep the folder's journal.

    until  Stop before the next shard once this file exists.
    """
    if corpus.digest != plan.corpus:
        raise ValueError(f"the plan is for the corpus {plan.corpus}, not {corpus.digest}")
    rows = sum(done[shard.file].rows for shard in wanted if shard.file in done)
    total = plan.rows_of(wanted)
    _check_disk(plan, folder, [shard for shard in wanted if shard.file not in done])
    with disk_may_fill(folder):
        write_journal(folder, plan, done)
    forward = PairedForward(
        source,
        target,
        plan.source.layers,
        plan.target.layers,
        batch_tokens=plan.batch_tokens,
        non_finite=plan.non_finite,
    )
    hardware = f"source on {source.hardware}; target on {target.hardware}"
    with ShardWriter(folder, plan, done, hardware) as writer:
        for shard in wanted:
            if shard.file in done:
                continue
            if until is not None and until.is_file():
                log.info("%s exists: the store is complete without this share", until)
                return

            def report(rows_of_shard: int, before: int = rows) -> None:
                if progress is not None:
                    progress(before + rows_of_shard, total)

            columns = writer.buffer(shard.sequences * plan.context)
            writer.put(shard, columns, _run_models(forward, shard, corpus, columns, report))
            rows += shard.sequences * plan.context


def _run_models(
    forward: PairedForward,
    shard: ShardPlan,
    corpus: PackedCorpus,
    columns: Mapping[str, Tensor],
    report: Callable[[int], None],
) -> dict[str, int]:
    """Fill a shard's columns. Returns the number of tokens whose state is infinite or NaN, by column."""
    context, non_finite = corpus.context, Counter[str]()
    first, stop = shard.first_sequence, shard.first_sequence + shard.sequences
    for batch in forward.batches(corpus, shard.split, first, stop):
        place = slice((batch.first - first) * context, (batch.stop - first) * context)
        for name, values in facts_of(corpus.splits[shard.split], batch).items():
            columns[name][place] = values
        for name, states in batch.states.items():
            assert states.dtype == columns[name].dtype, "a model's states have its dtype"
            columns[name][place] = states
            columns[f"norm.{name}"][place] = batch.norms[name]
        non_finite.update(batch.non_finite)
        report(place.stop)
    for name, count in non_finite.items():
        log.warning("%s: %d tokens are infinite or NaN at %s and are excluded", shard.file, count, name)
    return dict(non_finite)


def _finish(folder: Path, plan: RecordingPlan, done: Mapping[str, Shard]) -> None:
    shards = tuple(done[shard.file] for shard in plan.shards)
    if len(kinds := Counter(shard.hardware or "unknown hardware" for shard in shards)) > 1:
        listed = "; ".join(f"{count} shards: {kind}" for kind, count in sorted(kinds.items()))
        log.warning(
            "%s mixes states of unlike hardware, whose last bits differ: %s. To have all of one kind, delete "
            "the folder and record it on one kind of machine",
            folder,
            listed,
        )
    store = ActivationStore(folder, Manifest(plan, shards, {}), "")
    medians = {
        f"{side}.{layer}": _median_norm(store, side, layer)
        for side in SIDES
        for layer in plan.side(side).layers
    }
    write_durably(folder / MANIFEST, Manifest(plan, shards, medians).dumps().encode())


def _median_norm(store: ActivationStore, side: Side, layer: int) -> float:
    """Median norm over training tokens except position 0, whose norm is hundreds of times larger."""
    norm, token = f"norm.{side}.{layer}", store.plan.token_column(side)
    parts = [
        rows[norm][(rows["position"] > 0) & (rows[token].view(len(rows[norm]), -1)[:, 0] != PADDING)]
        for rows in store.stream("train", [norm, token, "position"])
    ]
    return float(torch.cat(parts).median())


def _clean_up(folder: Path) -> None:
    """Remove the journal and the workers' folders of a complete store."""
    (folder / JOURNAL).unlink(missing_ok=True)
    for place in share_folders(folder):
        try:
            with one_recorder(place, wait=False):
                shutil.rmtree(place)
        except StoreBusy:
            log.warning("a process is still recording into %s, but the store is complete; end it", place)
    with suppress(OSError):  # not empty, or missing
        (folder / SHARES).rmdir()


def _check_disk(plan: RecordingPlan, folder: Path, wanted: Sequence[ShardPlan]) -> None:
    """Log the disk need of the shards that are still to be written. Raises DiskTooSmall."""
    rows, need = plan.rows_of(wanted), plan.bytes_of(wanted)
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    log.info(
        "recording %s tokens of %s bytes each: %s to write, %s free in %s",
        f"{rows:,}",
        f"{plan.bytes_per_row:,}",
        _size(need),
        _size(free),
        folder,
    )
    if need > free:
        raise DiskTooSmall(
            f"recording needs {need} bytes ({_size(need)}: {rows:,} tokens of {plan.bytes_per_row} bytes); "
            f"{folder} has {free} bytes ({_size(free)}) free; make room, lower corpus.tokens, record fewer "
            "layers, or set paths.artifacts to another disk"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
