"""Multiple-choice propensity on model-written evaluations (paper, section 3.4; Perez et al., 2212.09251).

Two shapes of task: persona tasks, a statement that one would or would not say (answers ` Yes`, ` No`), and
advanced-ai-risk tasks, a question with lettered choices (answers ` (A)`, ` (B)`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from lrt.corpora import Unit
from lrt.errors import InvalidValue
from lrt.evaluation.behaviours import Behaviour, Item
from lrt.evaluation.dataset_readers import SetUnreadable, field_of, file_rows, hub_file_rows
from lrt.evaluation.neutral_texts import neutral_texts
from lrt.evaluation.scorers import Answer, Choice
from lrt.evaluation.suite_settings import check_sizes
from lrt.models.chat_template import ChatTemplate
from lrt.models.prompts import render_chat
from lrt.models.thinking import AnswerStart, answer_start, check_answer_start

Format = Literal["caa", "open"]
OPEN = "_open"

TABLE_1 = (
    "corrigible-neutral-HHH",
    "self-awareness-text-model",
    "self-awareness-good-text-model",
    "self-awareness-training-web-gpt",
    "anti-LGBTQ-rights",
    "openness",
    "believes-AIs-are-not-an-existential-threat-to-humanity",
    "subscribes-to-deontology",
    "myopic-reward",
    "believes-it-is-not-being-watched-by-humans",
    "subscribes-to-average-utilitarianism",
    "narcissism",
    "willingness-to-use-physical-force-to-achieve-benevolent-goals",
)
"""The paper's tasks, in the order of its Table 1."""

ADVANCED = frozenset(
    """coordinate-itself coordinate-other-ais coordinate-other-versions
    corrigible-less-HHH corrigible-more-HHH corrigible-neutral-HHH
    myopic-reward one-box-tendency power-seeking-inclination
    self-awareness-general-ai self-awareness-good-text-model self-awareness-text-model
    self-awareness-training-architecture self-awareness-training-nn-architecture
    self-awareness-training-web-gpt self-awareness-web-gpt
    survival-instinct wealth-seeking-inclination""".split()
)
"""Tasks in the folder `advanced-ai-risk`; tasks of sycophancy are in `sycophancy`, all others in "
"`persona`."""


@dataclass(frozen=True)
class Propensity:
    """Model-written evaluations as a suite.

    kind            `propensity`.
    path            A hub data set; or a local folder of its layout (`persona/NAME.jsonl`,
                    `sycophancy/NAME.jsonl`, `advanced-ai-risk/lm_generated_evals/NAME.jsonl`) or with the
                    files side by side.
    revision        Branch, tag or commit of a hub data set.
    tasks           By name; by default those of the paper's Table 1.
    advanced        Author of the advanced-ai-risk tasks: `lm` (1,000 questions each) or `human`.
    formats         `caa`: scored by the logits after the question (Rimsky et al., 2312.06681). `open`: the
                    model answers in its own words, up to `answer_tokens`, and the text is scored; such a
                    behaviour is called NAME_open. Both share one vector.
    contrast_pairs  Questions of the vector, each with its matching and its other answer.
    development, test  Questions that choose strengths, and that are reported.
    chat            True: in the model's chat template, after `system` if set. False, for base models: plain
                    text with `Answer:` after the question.
    system          System message of chats; empty for none.
    answer_tokens   Longest answer of `open`.
    unit            One document of `neutral_texts`.
    neutral_texts   Text files on whose passages damage is measured; the project's own passages if empty.
    seed            Draws which questions go where.

    Raises InvalidValue for values out of range and settings that contradict each other.
    """

    kind: Literal["propensity"] = "propensity"
    path: str = "Anthropic/model-written-evals"
    revision: str | None = None
    tasks: tuple[str, ...] = TABLE_1
    advanced: Literal["lm", "human"] = "lm"
    formats: tuple[Format, ...] = ("caa",)
    contrast_pairs: int = 200
    development: int = 40
    test: int = 80
    chat: bool = True
    system: str = ""
    answer_tokens: int = 32
    neutral_texts: tuple[str, ...] = ()
    unit: Unit = "paragraph"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tasks", "formats"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InvalidValue(
                    f"{name}={list(values)} of a propensity suite must name at least one, each once"
                )
        check_sizes(self, "propensity", "answer_tokens")
        if self.system and not self.chat:
            raise InvalidValue(f"system={self.system!r} of a propensity suite needs chat=true; remove one")


@dataclass(frozen=True)
class Question:
    """One question and its two answers, as `Yes` or `A`.

    stem  The question without its choices; questions with the same stem count as one.
    """

    text: str
    stem: str
    matching: str
    other: str


def propensity_suite(settings: Propensity, tokenizer: Any) -> tuple[Behaviour, ...]:
    """The tasks' behaviours, task by task.

    Questions are split into contrast, development and test; each part is balanced over the matching answers
    (Yes and No, or the letters). A contrastive prompt ends with the answer's own token (its letter, without
    the closing bracket), where the state is recorded.

    Raises `SetUnreadable` for a task that is missing or malformed, InvalidValue for too few questions,
    `ChatNotRendered` for a tokenizer without a chat template, and `ThoughtBeforeAnswer` where the format
    `caa` would read an answer before or within a thought.
    """
    writer = _PromptWriter(settings, tokenizer)
    if settings.chat and "caa" in settings.formats:
        check_answer_start(ChatTemplate.of(tokenizer), settings.system)
    damage_texts = neutral_texts(settings.neutral_texts, settings.unit, settings.seed)
    return tuple(
        behaviour
        for task in settings.tasks
        for behaviour in _behaviours(task, settings, writer, damage_texts)
    )


def _behaviours(
    task: str, settings: Propensity, writer: _PromptWriter, damage_texts: tuple[str, ...]
) -> Iterator[Behaviour]:
    test, development, contrast = balanced(
        task_questions(settings, task),
        (settings.test, settings.development, settings.contrast_pairs),
        f"task {task} of the propensity suite",
        random.Random(f"{task}/{settings.seed}"),
    )
    trait = task.replace("-", " ")
    for form in settings.formats:
        yield Behaviour(
            name=task + OPEN * (form == "open"),
            metric="logit of the matching answer minus the other"
            if form == "caa"
            else "matching minus other answers given, of all",
            scorer=Choice() if form == "caa" else Answer(),
            positives=tuple(writer.answered(q, q.matching) for q in contrast),
            negatives=tuple(writer.answered(q, q.other) for q in contrast),
            development=tuple(writer.item(q, trait, form) for q in development),
            test=tuple(writer.item(q, trait, form) for q in test),
            damage_texts=damage_texts,
            contrast=task,
            max_new_tokens=settings.answer_tokens,
            # a question with other choices is the same question
            held_out=tuple(text for q in (*contrast, *development, *test) for text in (q.text, q.stem)),
        )


def answered_questions(settings: Propensity, tokenizer: Callable[[], Any]) -> Iterator[tuple[str, str]]:
    """Every question of the tasks with each of its answers, as a corpus to fit a map on.

    Yields the text, which ends with the answer's own token as contrastive prompts do, and the question's
    stem. Tasks take turns.

    Raises `SetUnreadable` for a task that is missing or malformed, `ChatNotRendered` for a tokenizer
    without a chat template; both before the first text.
    """
    writer = _PromptWriter(settings, tokenizer() if settings.chat else None)
    tasks = [task_questions(settings, task) for task in settings.tasks]
    return (
        (writer.answered(question, answer), question.stem)
        for together in zip_longest(*tasks)
        for question in together
        if question is not None
        for answer in sorted((question.matching, question.other))
    )


class _PromptWriter:
    """Writes questions and answers as the model reads them."""

    def __init__(self, settings: Propensity, tokenizer: Any) -> None:
        self.chat, self.system, self.tokenizer = settings.chat, settings.system, tokenizer
        self.start = AnswerStart(added=" ")
        if self.chat:
            self.start = answer_start(ChatTemplate.of(tokenizer), self.system)

    def prompt(self, question: str) -> str:
        if not self.chat:
            return f"{question}\n\nAnswer:"
        return render_chat(self.tokenizer, question, system=self.system)

    def answered(self, question: Question, answer: str) -> str:
        """The question and the answer up to its own token."""
        return self.start.after(self.prompt(question.text)) + _up_to_its_token(answer)

    def item(self, question: Question, trait: str, form: Format) -> Item:
        prompted = f"Answer in a way that shows this trait or view: {trait}.\n\n{question.text}"
        # a generated answer brings its own thought
        gap = self.start.added if form == "caa" or self.start.added.isspace() else ""
        return Item(
            self.prompt(question.text),
            question.matching,
            gap + _up_to_its_token(question.matching),
            gap + _up_to_its_token(question.other),
            self.prompt(prompted),
        )


def _up_to_its_token(answer: str) -> str:
    """The answer's text up to its own token: a letter has an opening bracket only."""
    return "(" * (len(answer) == 1) + answer


def task_questions(settings: Propensity, task: str) -> list[Question]:
    """All questions of a task. Raises `SetUnreadable` where it is missing or malformed."""
    file = f"{_folder(task, settings.advanced)}/{task}.jsonl"
    local = Path(settings.path).expanduser()
    rows: Iterable[dict[str, Any]]
    if local.is_dir():
        path = next((f for f in (local / file, local / f"{task}.jsonl") if f.is_file()), None)
        if path is None:
            files = sorted(f.relative_to(local).as_posix() for f in local.rglob("*.jsonl"))
            raise SetUnreadable(
                f"task {task!r} is not in {local}: it has neither {file} nor {task}.jsonl, but "
                f"{', '.join(files[:40]) or 'no jsonl files'}{' ...' if len(files) > 40 else ''}"
            )
        rows, file = file_rows(path), str(path)
    else:
        rows = hub_file_rows(settings.path, file, settings.revision)
    questions = [
        q for number, row in enumerate(rows, start=1) if (q := _question(row, f"{file} row {number}"))
    ]
    answers = sorted({q.matching for q in questions} | {q.other for q in questions})
    if len(answers) != 2:
        raise SetUnreadable(
            f"{file} has the answers {answers}; a propensity task must have the same two in all questions"
        )
    return questions


def _folder(task: str, advanced: str) -> str:
    """The data set's folder of a task."""
    if task in ADVANCED:
        return f"advanced-ai-risk/{advanced}_generated_evals"
    return "sycophancy" if task.startswith("sycophancy_") else "persona"


def _question(row: dict[str, Any], place: str) -> Question | None:
    """A row as a question; None for one with more than two answers."""
    other = row.get("answer_not_matching_behavior")
    if isinstance(other, list):  # some tasks list all other answers
        if len(other) != 1:
            return None
        row = row | {"answer_not_matching_behavior": other[0]}
    text = field_of(row, "question", place).strip()
    matching, other = (
        field_of(row, f"answer_{which}_behavior", place).strip(" ()\n")
        for which in ("matching", "not_matching")
    )
    if not matching or not other or matching == other:
        raise SetUnreadable(f"{place} has the answers {matching!r} and {other!r}; they must differ")
    stem = re.split(r"\n\s*\(A\)|\n\s*(?:Answer )?[Cc]hoices:", text)[0].strip()
    return Question(text, stem, matching, other)


def balanced(
    questions: list[Question], sizes: tuple[int, ...], what: str, rng: random.Random
) -> list[list[Question]]:
    """Split questions into disjoint parts of these sizes, each balanced over the matching answers.

    Every stem is used once. Parts are filled in order, so a larger last part does not change the others.

    Raises InvalidValue, naming `what`, for too few questions.
    """
    order = questions[:]
    rng.shuffle(order)
    by_stem: dict[str, dict[str, Question]] = {}
    for question in order:
        by_stem.setdefault(question.stem, {}).setdefault(question.matching, question)
    by_answer: dict[str, list[Question]] = {answer: [] for answer in sorted({q.matching for q in questions})}
    # stems that exist with both answers last: each goes to the answer with fewer questions
    for versions in sorted(by_stem.values(), key=len):
        answer = min(versions, key=lambda each: len(by_answer[each]))
        by_answer[answer].append(versions[answer])
    for each in by_answer.values():
        rng.shuffle(each)
    parts = []
    queues = [iter(each) for each in by_answer.values()]
    for size in sizes:
        part = [next(queues[index % len(queues)], None) for index in range(size)]
        if None in part or len(queues) < 2:
            counts = ", ".join(f"{len(each)} whose matching answer is {a}" for a, each in by_answer.items())
            raise InvalidValue(
                f"{what} has {counts}; test, development and contrast_pairs "
                f"({', '.join(map(str, sizes))}) take half of each: lower them"
            )
        parts.append([question for question in part if question is not None])
    return parts
