"""Side effects of a run's vectors: measured once, and resumed where they were stopped."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from stages import Stages

import lrt.pipeline.side_effects as module
from lrt.config import ConfigError
from lrt.errors import UserError
from lrt.evaluation import measure
from lrt.evaluation.measuring import UNSTEERED
from lrt.evaluation.side_effects import Capability, GeneralText, HarmlessRequests, SideEffects
from lrt.pipeline import SideEffectStudies, plan_side_effects

SETTINGS = SideEffects(
    Capability(items=6), GeneralText(items=3), HarmlessRequests(items=3, answer_tokens=4), random_draws=2
)


def studies_of(stages: Stages) -> SideEffectStudies:
    return SideEffectStudies(plan_side_effects(stages.evaluation, stages.pair), stages.studies)


@pytest.fixture(scope="module")
def measured(shared: Stages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Studies and side effects measured, the tiny models taken for the lab's. Not to be changed."""
    folder = tmp_path_factory.mktemp("effects") / "artifacts"
    for kind in ("activations", "corpora"):
        shutil.copytree(shared.folder / kind, folder / kind)
    stages = shared.but(folder=folder, evaluation__side_effects=SETTINGS)
    with mock.patch.object(module, "family_card", return_value={}):
        studies_of(stages).summaries(stages.studied())
        yield stages


def test_every_behaviour_has_every_set_under_every_condition(measured: Stages) -> None:
    summaries = studies_of(measured).summaries(measured.studied())
    assert set(summaries) == {"capitals", "bravery"}
    for summary in summaries.values():
        assert set(summary) == {"capability", "perplexity", "over_refusal"}
        for each in summary.values():
            assert set(each["conditions"]) == {UNSTEERED, "native", "transferred", "random"}
            assert each["conditions"]["random"]["draws"] == 2
    # the unsteered model is the same whatever it is held against
    one, other = summaries.values()
    for kind in one:
        assert one[kind]["conditions"][UNSTEERED] == other[kind]["conditions"][UNSTEERED]
    assert len(measured.files("side_effects")) == 3  # unsteered, and a file a behaviour
    assert one["perplexity"]["conditions"]["native"]["change"] != 0.0


def test_measured_once(measured: Stages) -> None:
    before = measured.files("side_effects")
    again = measured.but()
    with mock.patch.object(module, "ResumableMeasuring", side_effect=AssertionError("measured again")):
        (one,) = studies_of(again).summaries(again.studied()[1:])
    assert one == "bravery"
    assert measured.files("side_effects") == before


@pytest.mark.parametrize(
    ("change", "studies", "effects"),
    [
        ({"random_draws": 1}, False, True),
        ({"seed": 1}, False, True),
        ({"capability": Capability(items=5)}, False, True),
        ({"lm_eval": True}, False, False),
    ],
)
def test_what_they_depend_on(
    measured: Stages, tmp_path: Path, change: dict[str, Any], studies: bool, effects: bool
) -> None:
    settings = SideEffects(**{**vars(SETTINGS), **change})
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    other = measured.but(folder=tmp_path / "artifacts", evaluation__side_effects=settings)
    counts = {kind: len(other.files(kind)) for kind in ("measurements", "side_effects")}
    studies_of(other).summaries(other.studied()[:1])
    assert (len(other.files("measurements")) > counts["measurements"]) is studies
    assert (len(other.files("side_effects")) > counts["side_effects"]) is effects


@pytest.mark.slow
def test_behaviours_of_the_same_vectors_are_measured_once(measured: Stages, tmp_path: Path) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    bravery = measured.suite[1]
    fewer = replace(bravery, name="fewer", test=bravery.test[:4])
    stages = measured.but(folder=tmp_path / "artifacts", suite=(*measured.suite, fewer))
    summaries = studies_of(stages).summaries(stages.studied())
    assert summaries["fewer"] == summaries["bravery"]
    assert len([file for file in stages.files("side_effects") if "bravery" in file.name]) <= 2
    opposite = replace(bravery, name="opposite", direction=-1)
    stages = stages.but(suite=(*measured.suite, opposite))
    summaries = studies_of(stages).summaries(stages.studied())
    assert summaries["opposite"] != summaries["bravery"]


def test_a_stopped_run_goes_on_where_it_was(measured: Stages, tmp_path: Path) -> None:
    shutil.copytree(measured.folder, tmp_path / "artifacts")
    shutil.rmtree(tmp_path / "artifacts" / "side_effects")
    stages = measured.but(folder=tmp_path / "artifacts", evaluation__max_rows=8)
    calls: list[int] = []

    def stopping_after(most: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(len(args[4]))
            return measure(*args, **kwargs)

        return call

    with (
        mock.patch("lrt.evaluation.resumable.measure", stopping_after(7)),
        pytest.raises(KeyboardInterrupt),
    ):
        studies_of(stages).summaries(stages.studied())
    first = sum(calls)
    calls.clear()
    again = stages.but()
    with mock.patch("lrt.evaluation.resumable.measure", stopping_after(1000)):
        resumed = studies_of(again).summaries(again.studied())
    assert first + sum(calls) == 3 * (6 + 3 + 3)  # each item once for unsteered and each behaviour
    assert json.dumps(resumed).count('"change"') == 2 * 3 * 3


def test_files_for_lm_eval_are_written_beside_the_report(measured: Stages, tmp_path: Path) -> None:
    studies_of(measured).write_lm_eval(tmp_path, measured.studied())
    names = {f"{b}-{c}.pt" for b in ("capitals", "bravery") for c in ("native", "transferred", "random")}
    assert names <= {file.name for file in tmp_path.iterdir()}


def test_what_cannot_be_measured_is_known_before(shared: Stages, tmp_path: Path) -> None:
    def plan(**settings: Any) -> Any:
        evaluation = shared.but(evaluation__side_effects=SideEffects(**settings)).evaluation
        with mock.patch.object(module, "family_card", return_value=None):
            return plan_side_effects(evaluation, shared.pair)

    with pytest.raises(ConfigError, match="lm_eval"):
        plan(lm_eval=True)
    with pytest.raises(UserError, match="nowhere"):
        plan(capability=Capability((str(tmp_path / "nowhere.json"),)))
    (tmp_path / "wrong.json").write_text('[{"text": "no question"}]')
    with pytest.raises(UserError, match="choices"):
        plan(capability=Capability((str(tmp_path / "wrong.json"),)))
