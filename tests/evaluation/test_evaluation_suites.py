"""Settings of every kind, and the behaviours that they build."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import upstream_files
from models.chat_templates import LLAMA, QWEN, WORDED
from small_behaviours import choice_behaviour

from lrt.errors import InvalidValue
from lrt.evaluation import (
    Behaviour,
    BehaviourUnreadable,
    CombinedSuite,
    FilesSuite,
    Instructions,
    Propensity,
    Refusal,
    StorybookSuite,
    Texts,
    build_suite,
)
from lrt.evaluation.judge import Judge, JudgeFailed
from lrt.evaluation.scorers import Classifier
from lrt.models import ModelNotLoadable
from lrt.models.chat_template import ChatTemplate
from lrt.models.thinking import ThoughtBeforeAnswer, ThoughtTags

SMALL: dict[str, Any] = {"contrast_pairs": 4, "development": 2, "test": 2}
DOGS = Texts(names=("dogs",), **SMALL)
BRAVERY = StorybookSuite(names=("bravery",), **SMALL)


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
    return [b.name for b in build_suite(settings, lambda: tokenizer)]


def test_combined_suites_give_their_behaviours_in_order(folder: Path, family_tokenizer: Any) -> None:
    file = folder / "own.json"
    file.write_text(json.dumps(replace(choice_behaviour(), name="own").to_data()))
    parts = {
        "a": Propensity(path=str(folder), tasks=("boldness",), **SMALL),
        "b": refusal(folder),
        "c": DOGS,
        "d": StorybookSuite(names=("mood",), **SMALL),
        "e": FilesSuite((str(file),)),
    }
    order = ["boldness", "refusal_induced", "dogs", "mood", "own"]
    assert names(CombinedSuite(parts), family_tokenizer) == order


def test_no_tokenizer_is_loaded_for_suites_without_chats() -> None:
    def tokenizer() -> Any:
        raise AssertionError

    assert [b.name for b in build_suite(BRAVERY, tokenizer)] == ["bravery"]


def test_behaviours_of_thinking_models_know_the_tags(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.json"
    behaviour = choice_behaviour()
    file.write_text(json.dumps(behaviour.to_data()))
    for settings in (refusal(folder), DOGS, FilesSuite((str(file),))):
        (plain,) = build_suite(settings, lambda: ChatTemplate(LLAMA))
        (made,) = build_suite(settings, lambda: ChatTemplate(QWEN))
        assert not plain.thought_tags
        warned = "enable_thinking" in caplog.text
        assert warned == isinstance(settings, Refusal)
        caplog.clear()
        assert "thought_tags" not in plain.to_data()  # so that other results keep their names
        assert made.thought_tags == (ThoughtTags("<think>", "</think>"),)
        assert Behaviour.from_data(json.loads(json.dumps(made.to_data()))) == made
    within = replace(behaviour.test[0], prompt="Well?<think>\n")
    file.write_text(json.dumps(replace(behaviour, test=(within,)).to_data()))
    with pytest.raises(BehaviourUnreadable, match="thinks"):
        build_suite(FilesSuite((str(file),)), lambda: ChatTemplate(QWEN))


def test_thoughts_that_cannot_be_taken_out_are_refused(folder: Path) -> None:
    asked = ChatTemplate(WORDED, arguments={"thinking": True})
    with pytest.raises(ThoughtBeforeAnswer, match="thinking: false"):
        build_suite(refusal(folder), lambda: asked)
    build_suite(refusal(folder), lambda: ChatTemplate(WORDED))
    build_suite(DOGS, lambda: asked)  # without chats


def test_empty_suites_are_refused() -> None:
    with pytest.raises(InvalidValue, match="parts"):
        CombinedSuite({})
    with pytest.raises(InvalidValue, match="paths"):
        FilesSuite(())


def test_names_and_contrasts_of_all_parts_must_go_together(folder: Path, family_tokenizer: Any) -> None:
    with pytest.raises(BehaviourUnreadable, match="'dogs'"):
        names(CombinedSuite({"a": DOGS, "b": replace(DOGS, seed=1)}), family_tokenizer)
    # the lab's refusal has a vector of its own
    lab = StorybookSuite(names=("refusal_removed",), **SMALL)
    with pytest.raises(BehaviourUnreadable, match="'refusal'"):
        names(CombinedSuite({"a": refusal(folder), "b": lab}), family_tokenizer)


def test_scorers_are_checked_before_anything_runs(
    folder: Path, family_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY_OF_MINE", raising=False)
    judge = Judge("http://localhost", "m", key_variable="A_KEY_OF_MINE")
    with pytest.raises(JudgeFailed, match="A_KEY_OF_MINE"):
        names(refusal(folder, judge=judge), family_tokenizer)
    with pytest.raises(ModelNotLoadable, match=str(folder)):
        names(refusal(folder, classifier=Classifier(str(folder), "REFUSAL")), family_tokenizer)
