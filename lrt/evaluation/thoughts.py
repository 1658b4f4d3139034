"""Generated texts are scored without their thoughts; what is stored is the whole text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrt.evaluation.scorers import Prompted, WrittenScorer, score_texts
from lrt.models.thinking import ThoughtTags


def answer_of(text: str, prompt: str, tags: Sequence[ThoughtTags]) -> str | None:
    """A generated text without its thoughts; None where it ends within a thought, or right after one.

    prompt  What the text goes on from: it may open a thought.
    """
    for each in tags:
        if prompt.rstrip().endswith(each.opening):
            text = each.opening + text
            break
    answer = text
    for each in tags:
        while each.opening in answer:
            before, _, rest = answer.partition(each.opening)
            _, closed, after = rest.partition(each.closing)
            if not closed:
                return None
            answer = before + after
        # closed without having been opened: a template may open a thought in a way of its own
        answer = answer.rpartition(each.closing)[2]
    if answer == text:
        return text
    return answer.lstrip() or None


def score_answers(
    scorer: WrittenScorer,
    texts: Sequence[str],
    prompts: Sequence[str],
    items: Sequence[Prompted],
    tags: Sequence[ThoughtTags],
) -> list[float]:
    """The score of each text's answer to its item; nan where the text has no answer yet.

    prompts  What each text goes on from.
    """
    answers = [answer_of(text, prompt, tags) for text, prompt in zip(texts, prompts, strict=True)]
    answered = [(answer, item) for answer, item in zip(answers, items, strict=True) if answer is not None]
    scores = iter(score_texts(scorer, [answer for answer, _ in answered], [item for _, item in answered]))
    return [math.nan if answer is None else next(scores) for answer in answers]
