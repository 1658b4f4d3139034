"""Multiple-choice questions with one correct answer, from files or the hub, as items of `Choice`."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lrt.evaluation.behaviours import Item
from lrt.evaluation.dataset_readers import SetUnreadable, field_of, file_rows, hub_rows
from lrt.models.chat_template import ChatTemplate
from lrt.models.prompts import render_chat
from lrt.models.thinking import AnswerStart, answer_start, check_answer_start
from lrt.storage.text_files import lone_surrogate

MOST_READ = 50_000  # rows of a data set, of which the questions are drawn

ALLOWED = (
    "allowed are MMLU's fields (`question`, `choices`: a list of 2 to 26 texts, `answer`: an index "
    "from 0 on or a letter), or a `prompt` that lists its choices as (A) and (B), with `correct` and "
    "`incorrect`: `(A)` or `(B)`"
)


@dataclass(frozen=True)
class MultipleChoiceItem(Item):
    """An item whose correct answer is `matching`; `further` are the wrong ones beside `other`."""

    further: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[str, ...]:
        return self.further


def multiple_choice_items(
    paths: Sequence[str],
    most: int,
    template: ChatTemplate | None,
    *,
    subset: str | None = None,
    split: str = "test",
    revision: str | None = None,
    seed: int = 0,
) -> tuple[MultipleChoiceItem, ...]:
    """Up to `most` questions drawn from JSON lists, jsonl files or hub data sets, each once.

    template               Writes each as a request; None ends it with `Answer:`, as lm-eval's MMLU does.
    subset, split, revision  Of hub data sets.

    Raises `SetUnreadable` for a set without questions, and a row that is not in an allowed format;
    `ChatNotRendered` and `ThoughtBeforeAnswer` of the template.
    """
    start = AnswerStart(added=" ")
    if template is not None:
        check_answer_start(template)
        start = answer_start(template)

    def item(text: str, answers: Sequence[str], key: str) -> MultipleChoiceItem:
        prompt = f"{text}\nAnswer:" if template is None else render_chat(template, text.strip())
        matching, other, *further = (start.added + answer for answer in answers)
        return MultipleChoiceItem(prompt, key, matching, other, further=tuple(further))

    items: dict[str, MultipleChoiceItem] = {}
    for path in paths:
        local = Path(path).expanduser()
        is_file = local.suffix in (".json", ".jsonl")
        rows = file_rows(local) if is_file else hub_rows(path, split, revision, subset)
        for number, row in enumerate(islice(rows, MOST_READ), start=1):
            each = item(*_question(row, f"{path} row {number}"))
            items.setdefault(each.prompt, each)
    if not items:
        raise SetUnreadable(f"{', '.join(paths)} has no questions; {ALLOWED}")
    every = list(items.values())
    random.Random(f"capability/{seed}").shuffle(every)
    return tuple(every[:most])


def _question(row: Mapping[str, Any], place: str) -> tuple[str, list[str], str]:
    """A row's question with its choices, its answers as they are written (the correct one first), and the
    correct letter."""
    if "choices" in row:
        return _lettered(row, place)
    if "correct" in row and "incorrect" in row:
        return _written_out(row, place)
    raise SetUnreadable(f"{place} has the fields {', '.join(map(repr, sorted(row)))}; {ALLOWED}")


def _lettered(row: Mapping[str, Any], place: str) -> tuple[str, list[str], str]:
    question = field_of(row, "question", place).strip()
    choices, answer = row["choices"], row.get("answer")
    if not isinstance(choices, list) or not all(isinstance(each, str) for each in choices):
        raise SetUnreadable(f"{place}: field 'choices' must be a list of texts; {ALLOWED}")
    if any(map(lone_surrogate, choices)):
        raise SetUnreadable(f"{place}: field 'choices' has half of a surrogate pair (\\ud800 to \\udfff)")
    letters = ascii_uppercase[: len(choices)]
    if not 2 <= len(choices) <= len(ascii_uppercase):
        raise SetUnreadable(f"{place} has {len(choices)} choices; {ALLOWED}")
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        correct = answer
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        correct = letters[answer]
    else:
        raise SetUnreadable(
            f"{place} has the answer {answer!r:.80}, not one of its {len(choices)} choices; {ALLOWED}"
        )
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return f"{question}\n{listed}", [correct, *(each for each in letters if each != correct)], correct


def _written_out(row: Mapping[str, Any], place: str) -> tuple[str, list[str], str]:
    text, correct, incorrect = (
        field_of(row, name, place).strip() for name in ("prompt", "correct", "incorrect")
    )
    letters = [match[1] for each in (correct, incorrect) if (match := re.fullmatch(r"\(?([A-Z])\)?", each))]
    if len(set(letters)) < 2 or not all(f"({letter})" in text for letter in letters):
        raise SetUnreadable(
            f"{place} has the answers {correct!r:.40} and {incorrect!r:.40}, which are no two of the choices "
            f"in its prompt; {ALLOWED}"
        )
    # up to its own token: the closing bracket decides nothing
    return f"{text}\n", [f"({letter}" for letter in letters], letters[0]


def sets_named(paths: Sequence[str]) -> str:
    """The names of files or data sets, for a report."""
    return ", ".join(dict.fromkeys(Path(path).stem if Path(path).suffix else path for path in paths))
