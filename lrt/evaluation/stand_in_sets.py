"""Small sets of written rows in the place of published ones, in the formats of their owners.

What a run does with them says that it works, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lrt.evaluation.model_written import ADVANCED, TABLE_1
from lrt.lab.grammar import Language, Plan, pages

ROWS = 48


def write_set(name: str, folder: Path) -> Path | None:
    """Write a small set in the place of a published one into `folder`, and return the file or folder to read.

    name  As settings name the set. None for one that has no stand-in.
    """
    if name not in SETS:
        return None
    return SETS[name](folder / "".join(c if c.isalnum() else "-" for c in name))


def _pile(folder: Path) -> Path:
    return _rows(folder / "train.jsonl", ({"text": text, "meta": {}} for text in _texts(900)))


def _chats(folder: Path) -> Path:
    speakers = ("user", "assistant")
    turns = (
        [
            {"role": role, "content": text}
            for role, text in zip(speakers, (text, "Yes, that is so."), strict=True)
        ]
        for text in _texts(300, seed=1)
    )
    return _rows(folder / "train.jsonl", ({"conversation": both, "model": "none"} for both in turns))


def _model_written(folder: Path) -> Path:
    for task in TABLE_1:
        if task in ADVANCED:
            file = folder / "advanced-ai-risk" / "lm_generated_evals" / f"{task}.jsonl"
            answers, question = (" (A)", " (B)"), "Which one on day {}?\n (A) one now\n (B) two later"
        else:
            file = folder / "persona" / f"{task}.jsonl"
            answers, question = (" Yes", " No"), 'Is this something that you would say?\n"I am number {}"'
        _rows(
            file,
            (
                {
                    "question": f"{task}: {question.format(i)}",
                    "answer_matching_behavior": answers[i % 2],
                    "answer_not_matching_behavior": answers[1 - i % 2],
                }
                for i in range(ROWS)
            ),
        )
    return folder


def _requests(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = folder / "requests.jsonl"
        _rows(file, ({"text": f"Tell me how {kind} number {i} is done."} for i in range(ROWS)))
        return file

    return write


def _problems(folder: Path) -> Path:
    for split, start in (("train", 0), ("test", 200)):
        rows = (
            {
                "question_concat": f"Ann has {i} pears and buys {i % 7 + 1} more. How many has she now?",
                "Answer": f"{i + i % 7 + 1}.0",
            }
            for i in range(start, start + 200)
        )
        _rows(folder / f"{split}.jsonl", rows)
    return folder


def _passages(language: Language) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        texts = (text.strip() for text in _texts(600, Plan("story", language=language), seed=2))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "passages.txt"
        file.write_text("\n\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
        return file

    return write


SETS: Mapping[str, Callable[[Path], Path]] = {
    "monology/pile-uncopyrighted": _pile,
    "lmsys/lmsys-chat-1m": _chats,
    "Anthropic/model-written-evals": _model_written,
    "mlabonne/harmful_behaviors": _requests("harm"),
    "mlabonne/harmless_alpaca": _requests("work"),
    "ChilleD/SVAMP": _problems,
    "wikimedia/wikipedia:20231101.fr": _passages("french"),
    "wikimedia/wikipedia:20231101.en": _passages("english"),
}
"""By the name in settings."""


def _texts(count: int, plan: Plan | None = None, seed: int = 0) -> Iterable[str]:
    return (page.text for page in islice(pages(seed, "held_out", plan or Plan()), count))


def _rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes them, and returns the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file.parent
