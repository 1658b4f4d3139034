import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from planted_studies import GRID, planted_study
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Item, Study
from lrt.evaluation.judge import Judge
from lrt.evaluation.rescoring import (
    BATCH,
    rescore,
    rescored_rows,
    summarise_rescored,
    text_id,
)
from lrt.evaluation.scorers import Mentions, scorer_facts
from lrt.evaluation.study_io import RecordCorrupt
from lrt.storage.sealed import read_sealed

TEXT = text_behaviour()


@dataclass
class Counting:
    """Scores a planted text `condition strength index` by its condition, and records the texts."""

    scored_texts: list[str]
    lacking: str = "nothing"

    def score_all(self, texts: Sequence[str], items: Sequence[Item]) -> list[float]:
        assert all(item in TEXT.items for item in items)
        self.scored_texts += texts
        return [math.nan if text == self.lacking else self.score(text) for text in texts]

    @staticmethod
    def score(text: str) -> float:
        condition, strength, index = text.split(" ")
        return int(index) + float(strength) * {"native": 4.0, "transferred": 3.0}.get(condition, 0.0)


def scored(study: Study, file: Path, scorer: Counting) -> dict[str, float]:
    return rescore(scorer, TEXT, study, file)  # type: ignore[arg-type]


def test_each_text_is_asked_once_and_kept(tmp_path: Path) -> None:
    study, file, scorer = planted_study(TEXT), tmp_path / "a" / "scores.json", Counting([])
    progress: list[int] = []
    by_text = rescore(scorer, TEXT, study, file, progress.append)  # type: ignore[arg-type]
    rows = rescored_rows(study)
    assert set(by_text) == {text_id(row) for row in rows}
    assert sum(progress) == len(by_text) == len(scorer.scored_texts) == len(set(scorer.scored_texts))
    assert all(by_text[text_id(row)] == Counting.score(row.text or "") for row in rows)
    again = Counting([])
    assert scored(study, file, again) == by_text
    assert again.scored_texts == []


def test_which_rows_are_worth_it() -> None:
    study = planted_study(TEXT, chosen=0.5)
    rows = rescored_rows(study)
    assert {row.split for row in rows} == {"test"}
    cells = {(row.condition, row.strength) for row in rows}
    assert {("native", s) for s in (-1.0, 0.5, 1.0)} <= cells
    assert {s for c, s in cells if c == "random"} == {0.5}
    assert {row.draw for row in rows} == {0}
    assert not rescored_rows(planted_study(choice_behaviour()))


def test_one_that_stops_goes_on_where_it_was(tmp_path: Path) -> None:
    study, file = planted_study(TEXT), tmp_path / "scores.json"
    many = replace(
        study,
        measurements=tuple(
            replace(row, text=f"{row.text}{copy}") for copy in range(4) for row in study.measurements
        ),
    )
    scored_texts: list[str] = []

    class Stopping(Counting):
        def score_all(self, texts: Sequence[str], items: Sequence[Item]) -> list[float]:
            if len(self.scored_texts) >= BATCH:
                raise KeyboardInterrupt
            return super().score_all(texts, items)

    with pytest.raises(KeyboardInterrupt):
        scored(many, file, Stopping(scored_texts))
    assert len(read_sealed(file)) == len(scored_texts) == BATCH
    scored(many, file, Counting(scored_texts))
    assert (
        len(scored_texts)
        == len(set(scored_texts))
        == len({text_id(row) for row in rescored_rows(many)})
        > BATCH
    )


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(content)
    with pytest.raises(RecordCorrupt, match=r"scores\.json"):
        scored(planted_study(TEXT), file, Counting([]))


def test_means_and_ratio_are_at_the_chosen_strength(tmp_path: Path) -> None:
    study = planted_study(TEXT, chosen=0.5)
    summary = summarise_rescored(study, "judge", scored(study, tmp_path / "s", Counting([])), GRID)
    assert summary["items"] == 3
    assert summary["unscored"] == 0
    assert (
        summary["means"]["none"]
        == summary["means"]["random"]
        == summary["means"]["prompt"]
        == pytest.approx(1.0)
    )
    assert summary["means"]["native"] == pytest.approx(3.0)
    assert summary["means"]["transferred"] == pytest.approx(2.5)
    assert summary["ratio"] == pytest.approx(0.75)
    assert [p["strength"] for p in summary["curves"]["native"]] == list(GRID.strengths)
    assert [p["mean"] for p in summary["curves"]["native"]] == pytest.approx([-3.0, 1.0, 3.0, 5.0])


def test_items_without_a_score_are_left_out_everywhere_and_counted(tmp_path: Path) -> None:
    study = planted_study(TEXT)
    scores = scored(study, tmp_path / "s", Counting([], lacking="native 1.0 2"))
    assert math.isnan(rescore(Counting([]), TEXT, study, tmp_path / "s")[_id(study, "native 1.0 2")])  # type: ignore[arg-type]
    summary = summarise_rescored(study, "judge", scores, GRID)
    assert (summary["items"], summary["unscored"]) == (2, 1)
    assert summary["means"]["none"] == pytest.approx(0.5)
    nothing = dict.fromkeys(scores, math.nan)
    assert summarise_rescored(study, "judge", nothing, GRID) == {"scorer": "judge", "items": 0, "unscored": 3}


def _id(study: Study, text: str) -> str:
    return next(text_id(row) for row in study.measurements if row.text == text)


def test_how_a_judge_is_asked_does_not_tell_its_scores_apart() -> None:
    judge = Judge("http://host", "rater")
    assert scorer_facts(judge) == scorer_facts(
        replace(judge, max_retries=9, backoff=3.0, key_variable="MINE")
    )
    assert scorer_facts(judge) != scorer_facts(replace(judge, highest=10.0))
    assert scorer_facts(Mentions(("dog",)))["words"] == ("dog",)
