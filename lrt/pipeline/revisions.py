"""Pins data sets of the hub to a commit, so that runs and shares of one folder read the same text."""

from __future__ import annotations

import logging
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from lrt.config.corpus import HubSource, QuestionsSource, WordProblemsSource
from lrt.corpora import CorpusMissing, commit_of, is_commit, is_local, with_revision
from lrt.evaluation import Instructions, Propensity, WordProblems
from lrt.evaluation.side_effects import Capability, HarmlessRequests
from lrt.storage.cache import JSON, Cache

log = logging.getLogger(__name__)
Section = TypeVar("Section")

SEVERAL = (Instructions, Capability, HarmlessRequests)
READ_FROM_THE_HUB = (HubSource, QuestionsSource, WordProblemsSource, Propensity, WordProblems, *SEVERAL)
KIND = "hub"


def pin_revisions(section: Section, cache: Cache) -> Section:
    """The section with every hub data set named by its commit.

    A revision that is no commit is resolved at its first use in the artifacts folder, and later runs take
    the same one. Where the hub cannot be reached, a warning is logged and the name stays as it is.
    """
    if isinstance(section, dict):
        return type(section)({key: pin_revisions(value, cache) for key, value in section.items()})
    if not is_dataclass(section) or isinstance(section, type):
        return section
    pinned: dict[str, Any] = {
        each.name: pin_revisions(getattr(section, each.name), cache) for each in fields(section)
    }
    if isinstance(section, READ_FROM_THE_HUB):
        if isinstance(section, SEVERAL):
            pinned["paths"] = tuple(_pinned(path, section.revision, cache) for path in section.paths)
        else:
            pinned["path"] = _pinned(section.path, section.revision, cache)
    changed = {name: value for name, value in pinned.items() if value is not getattr(section, name)}
    return replace(section, **changed) if changed else section


def _pinned(path: str, revision: str | None, cache: Cache) -> str:
    if is_local(path):
        return path
    path, revision = with_revision(path, revision)
    if is_commit(revision):
        return f"{path}@{revision}"
    facts = {"data set": path, "revision": revision or "main"}
    name = path.replace("/", "--")
    try:
        commit: str = cache.made_once(KIND, facts, lambda: commit_of(path, revision), JSON, name)
    except CorpusMissing as error:
        log.warning("%s. Its text is named by `revision` alone, which may move", error)
        return path if revision is None else f"{path}@{revision}"
    log.info(
        "Data set %s: %s is commit %s. To take a newer one, set its revision, or delete %s",
        path,
        revision or "main",
        commit[:12],
        cache.path(KIND, facts, JSON.suffix, name),
    )
    return f"{path}@{commit}"
