"""The journal of an unfinished recording: its plan and the shards that are finished, with checksums."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from lrt.activations.errors import StoreCorrupt
from lrt.activations.manifest import Shard
from lrt.activations.plan import RecordingPlan, check_same_plan
from lrt.activations.store import check_shard
from lrt.storage.sealed import read_sealed, write_sealed

log = logging.getLogger(__name__)

JOURNAL = "recording.json"


def write_journal(folder: Path, plan: RecordingPlan, done: Mapping[str, Shard]) -> None:
    """Replace the folder's journal. Raises OSError."""
    write_sealed(
        folder / JOURNAL, {"plan": plan.as_json(), "shards": [asdict(shard) for shard in done.values()]}
    )


def read_journal(
    folder: Path,
    plan: RecordingPlan,
    moved_to: Path | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Shard]:
    """The journal's shards whose files are undamaged, by file name; checksums are compared.

    moved_to  Where files may be that are no longer in the folder.
    only      Files to check; the others are skipped, unread.

    A damaged journal or file is logged and costs a new recording of it. Raises StoreForeign if the journal is
    of another plan.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return {}
    try:
        journal = read_sealed(path)
        stored, entries = journal["plan"], [Shard(**entry) for entry in journal["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is corrupt (%s); recording starts again from the first shard", path, error)
        return {}
    fix_hint = f"delete the folder {folder} and run the command again"
    check_same_plan(stored, plan.as_json(), f"the unfinished recording {folder}", fix_hint, layout=True)
    planned = {shard.file: shard for shard in plan.shards}
    wanted = planned.keys() if only is None else only
    whole: dict[str, Shard] = {}
    for shard in entries:
        # an unplanned name might lead out of the folder
        if shard.file not in planned or not shard.is_planned(planned[shard.file], plan.context):
            log.warning("%s lists %r, which is not a shard of the plan; ignored", path, shard.file)
            continue
        if shard.file not in wanted:
            continue
        moved = moved_to is not None and not (folder / shard.file).is_file()
        try:
            check_shard(moved_to if moved_to and moved else folder, shard, plan, fix_hint, full=True)
        except StoreCorrupt as error:
            log.warning("%s; this shard is recorded again", error)
        else:
            whole[shard.file] = shard
    if whole:
        log.info("continuing %s: %d of %d shards are recorded", folder, len(whole), len(plan.shards))
    return whole


def journal_versions(folder: Path) -> Mapping[str, str] | None:
    """Library versions with which the folder's shards were recorded; None without a readable journal."""
    try:
        versions = read_sealed(folder / JOURNAL)["plan"]["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return versions if isinstance(versions, dict) else None
