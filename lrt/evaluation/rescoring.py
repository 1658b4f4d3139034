"""Extra scorers of generated texts: a classifier or a judge, as a check on the main scorer.

The main scorer chooses the strength and measures the effect. Texts are stored with the study, so an extra
scorer may be added later; a stopped one resumes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.choice import StrengthGrid
from lrt.evaluation.curves import curves
from lrt.evaluation.measuring import Measurement
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.scorers import WrittenScorer
from lrt.evaluation.statistics import ratio_estimate
from lrt.evaluation.study import Study
from lrt.evaluation.study_io import RecordCorrupt
from lrt.evaluation.thoughts import score_answers
from lrt.storage.sealed import read_sealed, write_sealed

ON_THE_CURVE = ("none", "native", "transferred")
BATCH = 64  # texts scored between two writes of the file


def rescored_rows(study: Study) -> list[Measurement]:
    """The measurements that extra scorers score: `ON_THE_CURVE` at every strength, and the first draw of
    every other condition at the chosen strength.

    Further draws of nulls add little, and a judge costs money.
    """
    at = (0.0, study.choice.strength)
    return [
        row
        for row in study.measurements
        if row.split == study.split
        and row.draw == 0
        and row.text is not None
        and (row.condition in ON_THE_CURVE or row.strength in at)
    ]


def rescore(
    scorer: WrittenScorer,
    behaviour: Behaviour,
    study: Study,
    file: Path,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Scores of `rescored_rows` by `text_id`; nan where the scorer gave none.

    file  Stores the scores as they come in; texts that it holds are not scored again.

    Raises `RecordCorrupt` for a file that cannot be read, and the scorer's exceptions.
    """
    try:
        stored: dict[str, float | None] = read_sealed(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise RecordCorrupt(
            f"the scores in {file} cannot be read ({error}); delete the file and run evaluate.py again"
        ) from error
    items = {item.id: item for item in behaviour.items_of(study.split)}
    rows = rescored_rows(study)
    wanted = {text_id(row): row for row in rows}  # conditions often give the same text
    missing = [(key, row) for key, row in wanted.items() if key not in stored]
    if progress:
        progress(len(wanted) - len(missing))
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        answered = [items[row.item] for _, row in some]
        prompts = [row.prompt(item) for item, (_, row) in zip(answered, some, strict=True)]
        texts = [row.text or "" for _, row in some]
        values = score_answers(scorer, texts, prompts, answered, behaviour.thought_tags)
        stored |= {
            key: None if math.isnan(value) else value for (key, _), value in zip(some, values, strict=True)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, stored)
        if progress:
            progress(len(some))
    scores = {key: stored[key] for key in wanted}
    return {key: math.nan if score is None else score for key, score in scores.items()}


def text_id(row: Measurement) -> str:
    """Hash of an item and the text generated for it."""
    return hashlib.sha256(f"{row.item}\0{row.text}".encode()).hexdigest()[:24]


def summarise_rescored(
    study: Study, name: str, scores: dict[str, float], grid: StrengthGrid, seed: int = 0
) -> dict[str, Any]:
    """Summarise one extra scorer for the report, as plain data.

    Means by condition at the chosen strength, curves, and the transfer ratio where the native change is off
    zero and undamaged. Items with a text without a score are excluded, and counted as `unscored`.
    """
    rows = rescored_rows(study)
    values = [scores[text_id(row)] for row in rows]
    missing = {row.item for row, value in zip(rows, values, strict=True) if math.isnan(value)}
    scored = [
        replace(row, value=value) for row, value in zip(rows, values, strict=True) if row.item not in missing
    ]
    summary: dict[str, Any] = {
        "scorer": name,
        "items": len({row.item for row in scored}),
        "unscored": len(missing),
    }
    if not scored:
        return summary
    record, strength = ScoreTable(scored, study.split), study.choice.strength
    none, native, transferred = (
        record.column(condition, at)
        for condition, at in (("none", 0.0), ("native", strength), ("transferred", strength))
    )
    assert none is not None
    assert native is not None
    assert transferred is not None
    damaged = study.choice.damaged  # the main scorer has no ratio then either
    ratio = None if damaged else ratio_estimate(transferred - none, native - none, seed, record.item_keys)
    means = {
        condition: float(column.mean())
        for condition, at in _conditions(scored)
        if at in (0.0, strength) and (column := record.column(condition, at)) is not None
    }
    return summary | {
        "means": means,
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
        "curves": curves(record, ("native", "transferred"), grid, seed),
    }


def _conditions(rows: Iterable[Measurement]) -> list[tuple[str, float]]:
    """Conditions with their strengths, strength 0 first."""
    pairs = {(row.condition, row.strength) for row in rows}
    return sorted(pairs, key=lambda pair: (pair[0], abs(pair[1])))
