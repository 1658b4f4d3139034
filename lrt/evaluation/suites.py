"""Suites: settings that describe a set of behaviours, one dataclass a kind, and the behaviours they build."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, check_together, read_behaviours
from lrt.evaluation.judge import Judge
from lrt.evaluation.model_written import Propensity, propensity_suite
from lrt.evaluation.refusal import Refusal, refusal_suite
from lrt.evaluation.scorers import Classifier
from lrt.evaluation.storybook import StorybookSuite, storybook_suite
from lrt.evaluation.texts import Texts, texts_suite
from lrt.evaluation.word_problems import WordProblems, word_problems_suite
from lrt.models.chat_template import ChatTemplate
from lrt.models.thinking import check_thoughts_known, how_to_turn_off, thinks, thought_tags

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilesSuite:
    """Behaviours from files, one JSON file each (docs/behaviours.md).

    kind   `files`.
    paths  JSON files, one a behaviour.
    judge  Who rates the answers of behaviours with a `Judge`. A file says only what is asked of it.

    Raises InvalidValue without files.
    """

    paths: tuple[str, ...]
    judge: Judge | None = None
    kind: Literal["files"] = "files"

    def __post_init__(self) -> None:
        if not self.paths:
            raise InvalidValue("suite.paths=[] of kind=files: name at least one JSON file, one a behaviour")


OneSuite = StorybookSuite | FilesSuite | Propensity | Refusal | Texts | WordProblems


@dataclass(frozen=True)
class CombinedSuite:
    """Several suites in one run, under names of the user's choice.

    kind   `combined`.
    parts  The suites by name.

    Raises InvalidValue without parts.
    """

    parts: dict[str, OneSuite]
    kind: Literal["combined"] = "combined"

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidValue("suite.parts={} of kind=combined: give at least one suite, under any name")


SuiteSettings = OneSuite | CombinedSuite
"""The settings of any suite; `kind` tells which."""


def judges_of(settings: SuiteSettings) -> tuple[Judge, ...]:
    """The judges that the settings of a suite name."""
    match settings:
        case CombinedSuite():
            return tuple(judge for part in settings.parts.values() for judge in judges_of(part))
        case FilesSuite() | Refusal():
            return () if settings.judge is None else (settings.judge,)
        case _:
            return ()


def build_suite(settings: SuiteSettings, tokenizer: Callable[[], Any]) -> tuple[Behaviour, ...]:
    """The behaviours of a suite, in the order of its settings.

    tokenizer  Loads the tokenizer, or the `ChatTemplate` with its arguments, that chats are written with.
               Called only for suites that may hold chats.

    Raises a `UserError` for settings, files or data sets that cannot be used, for two behaviours of one name
    or contrast, and for a classifier or judge that is not available.
    """
    behaviours = _build(settings, tokenizer)
    check_together(behaviours)
    for scorer in {scorer for each in behaviours for scorer in (each.scorer, *each.extra_scorers)}:
        if isinstance(scorer, Classifier | Judge):
            scorer.check()
    return behaviours


def _build(settings: SuiteSettings, tokenizer: Callable[[], Any]) -> tuple[Behaviour, ...]:
    match settings:
        case CombinedSuite():
            return tuple(each for part in settings.parts.values() for each in _build(part, tokenizer))
        case StorybookSuite():
            return storybook_suite(settings)
        case FilesSuite():
            return _without_thoughts(read_behaviours(map(Path, settings.paths), settings.judge), tokenizer())
        case Propensity():
            made = propensity_suite(settings, tokenizer())
            return _without_thoughts(made, tokenizer(), settings.system if settings.chat else None)
        case Refusal():
            return _without_thoughts(refusal_suite(settings, tokenizer()), tokenizer(), settings.system)
        case Texts():
            return _without_thoughts(texts_suite(settings, tokenizer()), tokenizer())
        case WordProblems():
            return _without_thoughts(word_problems_suite(settings), tokenizer())


def _without_thoughts(
    behaviours: Sequence[Behaviour], tokenizer: Any, system: str | None = None
) -> tuple[Behaviour, ...]:
    """The behaviours, scored without the thoughts that the chat template, or the tokenizer, has tags for.

    system  Of their chats; None for behaviours without chats.
    """
    template = ChatTemplate.of(tokenizer)
    tags = thought_tags(template)
    written = [each.name for each in behaviours if not each.reads_logits]
    if written and system is not None:
        check_thoughts_known(template, system)
    if written and system is not None and thinks(template, system):
        log.warning(
            "%s: the model thinks before it answers, and has no score where its thought does not end within "
            "suite.answer_tokens. %s",
            ", ".join(written),
            how_to_turn_off(template, system),
        )
    return tuple(each if each.thought_tags else replace(each, thought_tags=tags) for each in behaviours)
