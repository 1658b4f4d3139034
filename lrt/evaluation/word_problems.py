"""The word problems suite: does a vector of step-by-step reasoning make a model solve more of them?

Setting: Balasubramanian et al., 2604.06377 (SVAMP). The prompts are worded anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lrt.corpora import Unit
from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, Item
from lrt.evaluation.dataset_readers import SetUnreadable, field_of, file_rows, hub_rows
from lrt.evaluation.neutral_texts import neutral_texts
from lrt.evaluation.numeric_answer import NumericAnswer, stated_number
from lrt.evaluation.suite_settings import check_sizes

QUESTION = "{question}"
END = "End with the sentence: The final answer is NUMBER."
DIRECT = f"Solve this problem. {END}\n\nProblem:\n{QUESTION}\n\nSolution:\n"
REASONED = (
    f"Work through this problem one step at a time, then solve it. {END}\n\n"
    f"Problem:\n{QUESTION}\n\nSolution: Let us go step by step.\n"
)
MOST_READ = 20_000  # rows of a set, of which problems are drawn


@dataclass(frozen=True)
class WordProblems:
    """Problems whose answer is a number, as a suite of one behaviour, `reasoning`.

    kind             `word_problems`.
    path             A hub data set, or a local folder with a .jsonl or .json file named by split; or one such
                     file, which is split by problem.
    revision         Branch, tag or commit of a hub data set.
    train_split, test_split  Contrastive prompts and development items are of the first, test items of the
                     second.
    question_fields  Fields of a row whose texts, joined by a space, are the problem.
    answer_field     Field with the number, or with a text whose last number is the answer.
    direct, reasoned  Prompts around `{question}`: without and with a request to reason. The vector is the
                     difference of means between the two, at their last tokens. Items use `direct`.
    stops            An answer is read up to the first of these.
    contrast_pairs   Problems of the vector, each with either prompt.
    development, test  Problems that choose strengths, and that are reported.
    answer_tokens    Length of the generated answers.
    unit             One document of `neutral_texts`.
    neutral_texts    Text files on whose passages damage is measured; the project's own passages if empty.
    seed             Draws which problems go where.

    Raises InvalidValue for a size out of range, and for a prompt without `{question}`.
    """

    kind: Literal["word_problems"] = "word_problems"
    path: str = "ChilleD/SVAMP"
    revision: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    question_fields: tuple[str, ...] = ("question_concat",)
    answer_field: str = "Answer"
    direct: str = DIRECT
    reasoned: str = REASONED
    stops: tuple[str, ...] = ("Problem:",)
    contrast_pairs: int = 256
    development: int = 32
    test: int = 280
    answer_tokens: int = 512
    neutral_texts: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self, "word_problems", "answer_tokens")
        if not self.question_fields:
            raise InvalidValue("question_fields=[] of a word_problems suite: name the fields of the problem")
        for name in ("direct", "reasoned"):
            if QUESTION not in getattr(self, name):
                raise InvalidValue(
                    f"{name} of a word_problems suite has no {QUESTION}, where the problem goes"
                )
        if self.direct == self.reasoned:
            raise InvalidValue(
                "direct and reasoned of a word_problems suite are equal, so there is no contrast"
            )

    def prompts(self, question: str) -> tuple[str, str]:
        """The problem without and with the request to reason."""
        return self.direct.replace(QUESTION, question), self.reasoned.replace(QUESTION, question)


def word_problems_suite(settings: WordProblems) -> tuple[Behaviour, ...]:
    """The behaviour `reasoning`: share of problems whose number is right.

    The plain prompt that it is held against is the request to reason itself.

    Raises `SetUnreadable` for problems that are missing or malformed, InvalidValue for too few of them.
    """
    contrast, development, test = _parts(settings)
    return (
        Behaviour(
            name="reasoning",
            metric="share of word problems solved",
            scorer=NumericAnswer(settings.stops),
            positives=tuple(settings.prompts(question)[1] for question in contrast),
            negatives=tuple(settings.prompts(question)[0] for question in contrast),
            development=_items(settings, development),
            test=_items(settings, test),
            damage_texts=neutral_texts(settings.neutral_texts, settings.unit, settings.seed),
            max_new_tokens=settings.answer_tokens,
            held_out=(*contrast, *development, *test),
        ),
    )


def problem_prompts(settings: WordProblems) -> Iterator[tuple[str, str]]:
    """Every training problem in either prompt, as a corpus to fit a map on; and the problem by itself.

    Raises `SetUnreadable` where they are missing or malformed.
    """
    return (
        (prompt, question)
        for question in _read(settings, settings.train_split)
        for prompt in settings.prompts(question)
    )


def _items(settings: WordProblems, problems: dict[str, str]) -> tuple[Item, ...]:
    prompts = ((settings.prompts(question), answer) for question, answer in problems.items())
    return tuple(Item(direct, matching=answer, prompted=reasoned) for (direct, reasoned), answer in prompts)


def _parts(settings: WordProblems) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Answers by problem: of the contrastive prompts, the development items and the test items."""
    one_file = _is_file(settings.path)
    rng = random.Random(f"word_problems/{settings.seed}")
    tested = _read(settings, settings.test_split)
    test = _drawn(settings, tested, {"test": settings.test}, rng)[0]
    trained = tested if one_file else _read(settings, settings.train_split)
    rest = {question: answer for question, answer in trained.items() if question not in test}
    sizes = {"development": settings.development, "contrast_pairs": settings.contrast_pairs}
    development, contrast = _drawn(settings, rest, sizes, rng)
    return contrast, development, test


def _drawn(
    settings: WordProblems, problems: dict[str, str], sizes: dict[str, int], rng: random.Random
) -> Sequence[dict[str, str]]:
    if len(problems) < sum(sizes.values()):
        needed = " + ".join(f"{name} ({size})" for name, size in sizes.items())
        raise InvalidValue(
            f"word_problems suite: {settings.path} has {len(problems)} different problems for {needed}: "
            "lower them, or name another set"
        )
    order = list(problems.items())
    rng.shuffle(order)
    drawn = iter(order)
    return [dict(islice(drawn, size)) for size in sizes.values()]


def _rows(settings: WordProblems, split: str) -> Iterator[dict[str, Any]]:
    local = Path(settings.path).expanduser()
    if _is_file(settings.path):
        return file_rows(local)
    if not local.is_dir():
        return hub_rows(settings.path, split, settings.revision)
    files = [file for end in ("jsonl", "json") if (file := local / f"{split}.{end}").is_file()]
    if not files:
        raise SetUnreadable(
            f"{local} has neither {split}.jsonl nor {split}.json: add it, or name another split"
        )
    return file_rows(files[0])


def _is_file(path: str) -> bool:
    return Path(path).suffix in (".json", ".jsonl")


def _read(settings: WordProblems, split: str) -> dict[str, str]:
    """Answers by problem, each problem once."""
    problems: dict[str, str] = {}
    for number, row in enumerate(islice(_rows(settings, split), MOST_READ), start=1):
        place = f"{settings.path} {split} row {number}"
        question = " ".join(field_of(row, name, place).strip() for name in settings.question_fields)
        answer = row.get(settings.answer_field)
        number_given = isinstance(answer, int | float) and not isinstance(answer, bool)
        text = str(answer) if number_given else field_of(row, settings.answer_field, place)
        if stated_number(text) is None:
            raise SetUnreadable(f"{place}: field {settings.answer_field!r} has no number: {text!r:.80}")
        if question.strip():
            problems.setdefault(question, text)
    return problems
