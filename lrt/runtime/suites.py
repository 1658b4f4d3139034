"""From a suite's settings to its behaviours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrt.evaluation import (
    Behaviour,
    Propensity,
    Refusal,
    Texts,
    check_together,
    propensity_suite,
    read_behaviours,
    refusal_suite,
    storybook_suite,
    texts_suite,
)
from lrt.evaluation.judge import Judge
from lrt.evaluation.scorers import Classifier
from lrt.evaluation.storybook import NAMES as STORYBOOK_BEHAVIOURS
from lrt.runtime.schema import Combined, Suite


def behaviours_of(
    settings: Suite | Propensity | Refusal | Texts | Combined, tokenizer: Callable[[], Any]
) -> tuple[Behaviour, ...]:
    """The behaviours that a config's suite asks for.

    tokenizer  Gives the one in whose template chats are written; asked for by suites that may hold some.

    Raises ValueError for settings, files or sets that give none, for names that are taken twice, and for a
    classifier or judge that cannot be asked.
    """
    found = _built(settings, tokenizer)
    check_together(found)
    for scorer in {scorer for behaviour in found for scorer in (behaviour.scorer, *behaviour.extra_scorers)}:
        if isinstance(scorer, Classifier | Judge):
            scorer.check()
    return found


def _built(
    settings: Suite | Propensity | Refusal | Texts | Combined, tokenizer: Callable[[], Any]
) -> tuple[Behaviour, ...]:
    match settings:
        case Combined():
            return tuple(b for part in settings.parts.values() for b in _built(part, tokenizer))
        case Propensity():
            return propensity_suite(settings, tokenizer())
        case Refusal():
            return refusal_suite(settings, tokenizer())
        case Texts():
            return texts_suite(settings, tokenizer())
        case Suite(kind="files"):
            return read_behaviours(map(Path, settings.paths))
        case _:
            return storybook_suite(
                settings.names or STORYBOOK_BEHAVIOURS,
                contrast_pairs=settings.contrast_pairs,
                development=settings.development,
                test=settings.test,
                seed=settings.seed,
            )
