"""From settings to behaviours, and a run over suites of several kinds."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import upstream_files
from running import Workshop, run_here

from lrt.evaluation import BehaviourUnreadable, Instructions, Item, Propensity, Refusal, Texts
from lrt.evaluation.judge import Judge, JudgeFailed
from lrt.evaluation.scorers import Classifier
from lrt.models import ModelNotLoadable
from lrt.runtime.schema import Combined, Suite
from lrt.runtime.suites import behaviours_of

SMALL = {"contrast_pairs": 4, "development": 2, "test": 2}
DOGS = Texts(names=("dogs",), **SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets")
    upstream_files.model_written_folder(made)
    upstream_files.instruction_files(made)
    return made


def refusal(folder: Path, **more: Any) -> Refusal:
    sides = (Instructions((str(folder / f"{side}.json"),)) for side in ("harmful", "harmless"))
    return Refusal(*sides, names=("refusal_induced",), **SMALL, **more)


def names(settings: Any, tokenizer: Any) -> list[str]:
    return [b.name for b in behaviours_of(settings, lambda: tokenizer)]


def test_suites_of_several_kinds_give_their_behaviours_in_order(folder: Path, family_tokenizer: Any) -> None:
    tasks = Propensity(path=str(folder), tasks=("boldness",), **SMALL)
    lab = Suite(names=("bravery",), **SMALL)
    several = Combined({"a": tasks, "b": refusal(folder), "c": DOGS, "d": lab})
    assert names(several, family_tokenizer) == ["boldness", "refusal_induced", "dogs", "bravery"]


def test_no_model_is_asked_for_where_there_is_no_chat() -> None:
    def template() -> Any:
        raise AssertionError

    lab = Suite(names=("bravery",), **SMALL)
    assert [b.name for b in behaviours_of(lab, template)] == ["bravery"]


def test_several_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="kind=combined needs `parts`"):
        Combined({})


def test_names_are_taken_once(folder: Path, family_tokenizer: Any) -> None:
    with pytest.raises(BehaviourUnreadable, match="the name 'dogs' is taken"):
        names(Combined({"a": DOGS, "b": replace(DOGS, seed=1)}), family_tokenizer)
    # the lab's refusal has a vector of its own
    lab = Suite(names=("refusal_removed",), **SMALL)
    with pytest.raises(BehaviourUnreadable, match="shares the contrast 'refusal'"):
        names(Combined({"a": refusal(folder), "b": lab}), family_tokenizer)


def test_scorers_that_cannot_be_asked_are_told_before_anything_runs(
    folder: Path, family_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY_OF_MINE", raising=False)
    judge = Judge("http://localhost", "m", key_variable="A_KEY_OF_MINE")
    with pytest.raises(JudgeFailed, match="A_KEY_OF_MINE"):
        names(refusal(folder, judge=judge), family_tokenizer)
    with pytest.raises(ModelNotLoadable, match="cannot load a text classifier"):
        names(refusal(folder, classifier=Classifier(str(folder), "REFUSAL")), family_tokenizer)


class Lengths:
    """In the judge's place: how long an answer is."""

    asked = 0

    def score_all(self, texts: Sequence[str], items: Sequence[Item]) -> list[float]:
        type(self).asked += len(texts)
        assert len(texts) == len(items)
        return [float(len(text)) for text in texts]


@pytest.mark.xdist_group("micro")
def test_one_run_holds_suites_of_several_kinds(
    workshop: Workshop, folder: Path, classifier_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "score_all", Lengths().score_all)
    common = "contrast_pairs: 6, development: 2, test: 3"
    parts = (
        f"{{traits: {{kind: propensity, path: {folder}, tasks: [boldness], {common}}}, "
        f"no: {{kind: refusal, harmful: {{paths: [{folder}/harmful.json]}}, answer_tokens: 4, "
        f"harmless: {{paths: [{folder}/harmless.json]}}, names: [refusal_ablated, refusal_removed_log_odds], "
        f"classifier: {{path: {classifier_folder}, label: REFUSAL}}, "
        f"judge: {{url: 'http://localhost', model: m, key_variable: ''}}, {common}}}, "
        f"texts: {{kind: texts, names: [dogs], continuation: 4, {common}}}}}"
    )
    own = [word for word in workshop.settings() if not word.startswith("experiment=")]
    settings = [
        *own,
        "~suite",
        "+suite.kind=combined",
        f"+suite.parts={parts}",
        "evaluation.during_training.behaviours=[]",
        "corpus.tokens.validation=4096",
        "corpus.tokens.test=4096",
        "fit=closed_form",
        "evaluation.grid.strengths=[0.0,0.5,1.0]",
        "evaluation.random_draws=2",
        "evaluation.shuffled_draws=1",
        "evaluation.resampled_draws=0",
        "evaluation.folds=2",
        "evaluation.untrained_source=false",
        "evaluate=true",
    ]
    done = run_here("train", *settings)
    assert done.code == 0, done.told[-3000:]
    report = json.loads((workshop.report / "results.json").read_text())
    told = {b["name"]: b for b in report["behaviours"]}
    assert list(told) == ["boldness", "refusal_ablated", "refusal_removed_log_odds", "dogs"]
    assert told["boldness"]["propensity"]["strengths"] == [0.0, 0.5, 1.0]
    assert told["refusal_ablated"]["operation"] == "ablate"
    classified, judged = told["refusal_ablated"]["rescored"]
    assert (classified["scorer"], classified["items"], classified["unscored"]) == ("classifier", 3, 0)
    assert 0 < classified["means"]["none"] < 1
    assert (judged["scorer"], judged["items"], judged["unscored"]) == ("judge", 3, 0)
    assert judged["means"]["none"] > 1
    assert told["dogs"]["rescored"] == []
    asked = Lengths.asked
    assert asked > 0
    # found again: neither measured nor rated anew
    before = workshop.files("measurements")
    assert run_here("evaluate", *settings).code == 0
    assert Lengths.asked == asked
    assert workshop.files("measurements") == before
