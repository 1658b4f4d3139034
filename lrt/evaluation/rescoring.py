"""Other scorers of texts that are written already: a classifier, a judge.

The strength is chosen and the effect told by a behaviour's own scorer; these say whether another eye sees the
same. Texts are kept, so a scorer may come later, and one that stops goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrt.evaluation.behaviours import Behaviour
from lrt.evaluation.measuring import Measurement
from lrt.evaluation.score_table import ScoreTable
from lrt.evaluation.scorers import WrittenScorer, score_texts, scorer_to_data
from lrt.evaluation.statistics import ratio_estimate
from lrt.evaluation.study import StrengthGrid, Study
from lrt.evaluation.study_io import RecordCorrupt
from lrt.evaluation.summary import curves
from lrt.storage.sealed import read_sealed, write_sealed

# how a judge is asked, and not what
NOT_IN_THE_SCORE = ("key_variable", "max_retries", "backoff", "timeout", "max_concurrency")
ON_THE_CURVE = ("none", "native", "transferred")
AT_ONCE = 64


def rescored_rows(study: Study) -> list[Measurement]:
    """The rows that are scored again: those of `ON_THE_CURVE` at every strength, and the first draw of every
    other condition at the chosen one. Most draws of nulls say the same, and a judge costs."""
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
    """Scores by `text_id` of the rows that `rescored_rows` names, nan where the scorer gave none.

    file  Keeps them: what is in it is not asked for again, and it grows as scores come in.

    Raises `RecordCorrupt` for a file that cannot be read, and what the scorer raises.
    """
    try:
        found: dict[str, float | None] = read_sealed(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise RecordCorrupt(
            f"the scores in {file} cannot be read ({error}); delete the file and run evaluate.py again"
        ) from error
    items = {item.id: item for item in behaviour.items_of(study.split)}
    rows = rescored_rows(study)
    wanted = {text_id(row): row for row in rows}  # conditions often write the same
    missing = [(key, row) for key, row in wanted.items() if key not in found]
    if progress:
        progress(len(wanted) - len(missing))
    for start in range(0, len(missing), AT_ONCE):
        some = missing[start : start + AT_ONCE]
        values = score_texts(
            scorer, [row.text or "" for _, row in some], [items[row.item] for _, row in some]
        )
        found |= {
            key: None if math.isnan(value) else value for (key, _), value in zip(some, values, strict=True)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, found)
        if progress:
            progress(len(some))
    scores = {key: found[key] for key in wanted}
    return {key: math.nan if score is None else score for key, score in scores.items()}


def scorer_facts(scorer: WrittenScorer) -> dict[str, Any]:
    """What determines a scorer's scores."""
    return {name: value for name, value in scorer_to_data(scorer).items() if name not in NOT_IN_THE_SCORE}


def text_id(row: Measurement) -> str:
    """Hash of an item and what was written for it."""
    return hashlib.sha256(f"{row.item}\0{row.text}".encode()).hexdigest()[:24]


def summarise_rescored(
    study: Study, name: str, scores: dict[str, float], grid: StrengthGrid, seed: int = 0
) -> dict[str, Any]:
    """What the report says of one other scorer: means by condition at the chosen strength, the transferred
    change over the native one where that is off zero and undamaged, and curves.

    Items of which any text has no score are left out of everything, and counted.
    """
    rows = rescored_rows(study)
    values = [scores[text_id(row)] for row in rows]
    lacking = {row.item for row, value in zip(rows, values, strict=True) if math.isnan(value)}
    kept = [
        replace(row, value=value) for row, value in zip(rows, values, strict=True) if row.item not in lacking
    ]
    told: dict[str, Any] = {
        "scorer": name,
        "items": len({row.item for row in kept}),
        "unscored": len(lacking),
    }
    if not kept:
        return told
    record, strength = ScoreTable(kept, study.split), study.choice.strength
    none, native, ours = (
        record.column(condition, at)
        for condition, at in (("none", 0.0), ("native", strength), ("transferred", strength))
    )
    assert none is not None
    assert native is not None
    assert ours is not None
    damaged = study.choice.damaged  # where no ratio is told of the behaviour's own scorer either
    ratio = None if damaged else ratio_estimate(ours - none, native - none, seed, record.item_keys)
    means = {
        condition: float(column.mean())
        for condition, at in _cells(kept)
        if at in (0.0, strength) and (column := record.column(condition, at)) is not None
    }
    return told | {
        "means": means,
        "ratio": ratio.value if ratio else None,
        "ratio_ci": ratio.to_list() if ratio else None,
        "curves": curves(record, ("native", "transferred"), grid, seed),
    }


def _cells(rows: Iterable[Measurement]) -> list[tuple[str, float]]:
    """Conditions with their strengths, of each condition the strength 0 first."""
    return sorted({(row.condition, row.strength) for row in rows}, key=lambda cell: (cell[0], abs(cell[1])))
