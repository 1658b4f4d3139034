"""Raw measurements in the cache."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrt.evaluation import Behaviour, Study
from lrt.evaluation.study_io import items_beside, read_study, write_items, write_study
from lrt.storage.cache import Cache, Format

STUDY: Format[Study] = Format(".jsonl", write_study, read_study)
"""One jsonl file a behaviour, from which every report can be made again."""


def study_once(
    cache: Cache,
    kind: str,
    facts: Mapping[str, Any],
    make: Callable[[Path], Study],
    name: str,
    behaviour: Behaviour,
    by_source: Behaviour | None = None,
) -> Study:
    """The measurements that the facts determine, read or made, with their items in a file beside them.

    by_source  The behaviour as the source reads it, where that is another text.
    """
    study = cache.resumed(kind, facts, make, STUDY, name)
    items = items_beside(cache.path(kind, facts, STUDY.suffix, name))
    if not items.is_file():
        write_items(items, behaviour, by_source)
    return study
