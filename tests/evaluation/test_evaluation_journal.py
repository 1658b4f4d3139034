import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_studies import planted_study
from small_behaviours import choice_behaviour, text_behaviour
from whole_study import run

from lrt.evaluation import Damage, Measurement
from lrt.evaluation.journal import Journal
from lrt.evaluation.study_io import read_study, write_study
from lrt.models import LanguageModel

STUDY = planted_study(text_behaviour(), noise=0.1)
ROWS = list(STUDY.measurements[:5])


def must_not_run() -> Any:
    raise AssertionError


def test_stored_batches_are_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "it.journal"
    journal = Journal(file)
    assert journal.batch("a", Measurement, lambda: ROWS) == ROWS
    assert journal.batch("b", Damage, lambda: list(STUDY.damages)) == list(STUDY.damages)
    journal.close()
    again = Journal(file)
    assert again.stored == 2
    assert again.batch("a", Measurement, must_not_run) == ROWS
    assert again.batch("b", Damage, must_not_run) == list(STUDY.damages)
    again.close()


def test_without_a_file_nothing_is_stored() -> None:
    journal = Journal()
    assert journal.batch("a", Measurement, lambda: ROWS) == ROWS
    assert journal.batch("a", Measurement, lambda: []) == []


@pytest.mark.parametrize("lost", [1, 200])
def test_a_line_torn_by_a_kill_is_measured_again(lost: int, tmp_path: Path) -> None:
    file = tmp_path / "it.journal"
    journal = Journal(file)
    journal.batch("a", Measurement, lambda: ROWS)
    first = file.stat().st_size
    journal.batch("b", Measurement, lambda: ROWS[:2])
    journal.close()
    file.write_bytes(file.read_bytes()[:-lost])
    torn = Journal(file)
    assert file.stat().st_size == first  # what is written next stands on a line of its own
    assert torn.batch("a", Measurement, must_not_run) == ROWS
    torn.batch("b", Measurement, lambda: ROWS[:3])
    torn.close()
    with Journal(file) as fixed:
        assert fixed.batch("b", Measurement, must_not_run) == ROWS[:3]


@pytest.mark.parametrize("at", [3, 200])
def test_an_altered_line_is_measured_again(at: int, tmp_path: Path) -> None:
    file = tmp_path / "it.journal"
    with Journal(file) as journal:
        journal.batch("a", Measurement, lambda: ROWS)
        journal.batch("b", Measurement, lambda: ROWS[:2])
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    with Journal(file) as altered:
        assert altered.stored == 0
        assert altered.batch("a", Measurement, lambda: ROWS[:1]) == ROWS[:1]


def test_a_foreign_line_ends_the_journal(tmp_path: Path) -> None:
    file = tmp_path / "it.journal"
    with Journal(file) as journal:
        journal.batch("a", Measurement, lambda: ROWS)
    whole = file.read_bytes()
    for line in (b"[1]\n", b"\xff\xfe\n", b"\n"):
        file.write_bytes(whole + line + whole)
        with Journal(file) as journal:
            assert journal.stored == 1
        assert file.read_bytes() == whole


class Killed(BaseException):
    """Caught by no handler of the package."""


@pytest.mark.parametrize("after", [1, 6])
def test_a_study_stopped_anywhere_ends_as_one_that_was_not(
    after: int, story_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, file = choice_behaviour(), tmp_path / "it.journal"
    options = {"max_rows": 40}  # a few items a batch
    whole, _ = run(behaviour, story_lm, **options)
    module: Any = sys.modules["lrt.evaluation.resumable"]
    real = module.measure
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == after + 1:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(module, "measure", counted)
    with pytest.raises(Killed), Journal(file) as journal:
        run(behaviour, story_lm, journal=journal, **options)
    in_all = len(calls) - 1
    assert in_all == after
    resumed: list[int] = []
    with Journal(file) as journal:
        measured, _ = run(behaviour, story_lm, resumed.append, journal=journal, **options)
    assert measured == whole
    calls_of_the_rest = len(calls) - (after + 1)
    monkeypatch.setattr(module, "measure", real)
    everything: list[int] = []
    run(behaviour, story_lm, everything.append, **options)
    assert sum(resumed) == sum(everything)  # the progress bar is full in either case
    # and no stored batch was measured again
    fresh: list[int] = []
    monkeypatch.setattr(module, "measure", lambda *g, **n: (fresh.append(1), real(*g, **n))[1])
    run(behaviour, story_lm, **options)
    assert calls_of_the_rest == len(fresh) - after


def test_scores_that_are_not_finite_are_stored(tmp_path: Path) -> None:
    """A judge without a rating, a logit that overflowed."""
    odd = [replace(ROWS[0], value=float("nan")), replace(ROWS[1], value=float("inf"))]
    with Journal(tmp_path / "it.journal") as journal:
        journal.batch("a", Measurement, lambda: odd)
    with Journal(tmp_path / "it.journal") as again:
        rows = again.batch("a", Measurement, must_not_run)
    assert math.isnan(rows[0].value)
    assert rows[1].value == math.inf
    study = replace(STUDY, measurements=tuple(odd), choice=replace(STUDY.choice, change=float("nan")))
    write_study(tmp_path / "it.jsonl", study)
    assert math.isnan(read_study(tmp_path / "it.jsonl").choice.change)
