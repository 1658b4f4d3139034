"""Data sets of the Hugging Face hub, named with the revision that is read: `org/name@REVISION`."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi

from lrt.corpora.errors import CorpusMissing

_HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA_FILES = (".json", ".jsonl", ".txt", ".csv", ".parquet")
TIMEOUT = 20.0  # seconds


def with_revision(path: str, revision: str | None) -> tuple[str, str | None]:
    """The id and revision of `org/name@REVISION`; any other path is returned with `revision` as it is."""
    named = _HUB_ID.fullmatch(path)
    if named is None or named["revision"] is None or is_local(path):
        return path, revision
    return named["id"], named["revision"]


def is_local(path: str) -> bool:
    """Whether a path names a file or folder, not a data set of the hub."""
    place = Path(path).expanduser()
    return place.exists() or place.suffix in _DATA_FILES or _HUB_ID.fullmatch(path) is None


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which cannot move; a branch or a tag can."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def commit_of(path: str, revision: str | None) -> str:
    """The commit that a revision of a hub data set is now. None is its main branch.

    Raises CorpusMissing where the hub has no such data set or revision, or cannot be reached.
    """
    try:
        commit = HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT).sha
    except Exception as error:  # the hub's HTTP client raises errors of many classes
        raise CorpusMissing(
            f"the hub does not say which commit {revision or 'main'} of the data set {path!r} is: {error}"
        ) from error
    if commit is None:
        raise CorpusMissing(f"the hub names no commit of the data set {path!r}")
    return commit
