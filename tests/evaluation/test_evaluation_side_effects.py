"""Sets of side effects, and the summary of what was measured on them."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrt.corpora import CorpusError
from lrt.errors import InvalidValue, UserError
from lrt.evaluation import Item, Measurement
from lrt.evaluation.measuring import choice_tokens
from lrt.evaluation.scorers import Choice, CrossEntropy, Opening
from lrt.evaluation.side_effects import (
    Capability,
    GeneralText,
    HarmlessRequests,
    Kind,
    SideEffects,
    SideEffectSet,
    side_effect_sets,
)
from lrt.evaluation.side_effects_summary import summarise_side_effects
from lrt.models.chat_template import ChatNotRendered, ChatTemplate

NOTHING = SideEffects(Capability(items=0), GeneralText(items=0), HarmlessRequests(items=0))
CHAT = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"


def sets(settings: SideEffects, tokenizer: Any, storybook: bool = False) -> dict[str, SideEffectSet]:
    template = ChatTemplate.of(tokenizer)
    made = side_effect_sets(settings, tokenizer, template, storybook=storybook)
    return {each.name: each for each in made}


def with_template(tokenizer: Any, template: str | None) -> Any:
    """A copy of the tokenizer with another chat template."""
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return made


@pytest.fixture
def chat_tokenizer(family_tokenizer: Any) -> Any:
    return with_template(family_tokenizer, CHAT)


def test_the_lab_makes_its_own(family_tokenizer: Any) -> None:
    settings = SideEffects(Capability(items=9), GeneralText(items=5), HarmlessRequests(items=4))
    made = sets(settings, family_tokenizer, storybook=True)
    assert {name: len(each.items) for name, each in made.items()} == {
        "capability": 9,
        "perplexity": 5,
        "over_refusal": 4,
    }
    for each in made.values():
        assert len({item.prompt for item in each.items}) == len(each.items)
    for item in made["capability"].items:
        choice_tokens(family_tokenizer, item)
    letters = [item.key for item in made["capability"].items]
    assert (letters.count("food"), letters.count("A"), letters.count("B")) == (4, 3, 2)
    tokens = [len(family_tokenizer(item.prompt)["input_ids"]) for item in made["perplexity"].items]
    assert made["perplexity"].weights == tuple(count - 1 for count in tokens)
    assert made == sets(settings, family_tokenizer, storybook=True)
    other = sets(replace(settings, seed=1), family_tokenizer, storybook=True)
    assert all(other[name].items != made[name].items for name in made)


def test_other_models_have_general_text_alone(family_tokenizer: Any) -> None:
    made = sets(SideEffects(), family_tokenizer)
    assert set(made) == {"perplexity"}
    assert len(made["perplexity"].items) > 10


def test_nothing_is_measured_where_nothing_is_wanted(family_tokenizer: Any) -> None:
    for storybook in (True, False):
        assert sets(NOTHING, family_tokenizer, storybook) == {}


def test_files_come_before_the_labs_own(chat_tokenizer: Any, tmp_path: Path) -> None:
    question = {"question": "Who?", "choices": ["Mia", "Tom", "Anna"], "answer": 2}
    (tmp_path / "q.json").write_text(json.dumps([question]))
    (tmp_path / "t.txt").write_text("Mia went to the barn. " * 10 + "\n\nshort\n\n" + "The dog ran. " * 300)
    (tmp_path / "r.json").write_text(json.dumps([{"ask": "Tell me a story."}, {"ask": "Tell me a story."}]))
    settings = SideEffects(
        Capability((str(tmp_path / "q.json"),)),
        GeneralText((str(tmp_path / "t.txt"),)),
        HarmlessRequests((str(tmp_path / "r.json"),), field="ask"),
    )
    made = sets(settings, chat_tokenizer, storybook=True)
    assert [item.prompt for item in made["over_refusal"].items] == ["<|user|>Tell me a story.<|assistant|>"]
    assert made["over_refusal"].scorer.score("I'm sorry, but no.") == 1.0  # type: ignore[union-attr]
    texts = sorted((item.prompt for item in made["perplexity"].items), key=len)
    assert len(texts) == 2
    assert texts[0].count("barn") == 10
    assert 100 < len(texts[1].split()) < 300  # cut
    assert [item.others for item in made["capability"].items] == [(" B",)]
    chat = replace(settings, capability=replace(settings.capability, chat=True))
    (item,) = sets(chat, chat_tokenizer)["capability"].items
    assert item.prompt.startswith("<|user|>Who?")
    assert item.prompt.endswith("<|assistant|>")
    assert {each.origin for each in made.values()} == {"q", "t", "r"}


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_perplexity_of_json_is_that_of_the_texts_in_it(
    family_tokenizer: Any, tmp_path: Path, name: str
) -> None:
    text = 'Mia said "no" and went home. ' * 10
    rows = [{"body": text + end, "id": 3} for end in ("First.", "Second.")]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(rows))
    (made,) = sets(
        replace(NOTHING, perplexity=GeneralText((str(tmp_path / name),), field="body")), family_tokenizer
    ).values()
    assert {item.prompt for item in made.items} == {row["body"] for row in rows}


def test_what_cannot_be_used_is_refused(family_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("short")
    (tmp_path / "r.json").write_text("[]")
    (tmp_path / "s.json").write_text(json.dumps([{"instruction": "Tell me."}]))
    (tmp_path / "t.jsonl").write_text(json.dumps({"body": "Mia went to the barn. " * 10}))
    bad: list[tuple[SideEffects, type[Exception]]] = [
        (replace(NOTHING, perplexity=GeneralText((str(tmp_path / "t.txt"),))), UserError),
        (replace(NOTHING, perplexity=GeneralText((str(tmp_path / "none.txt"),))), UserError),
        (
            replace(NOTHING, perplexity=GeneralText((str(tmp_path / "t.jsonl"),))),
            CorpusError,
        ),  # another field
        (replace(NOTHING, over_refusal=HarmlessRequests((str(tmp_path / "r.json"),))), UserError),
        (replace(NOTHING, over_refusal=HarmlessRequests((str(tmp_path / "s.json"),))), ChatNotRendered),
    ]
    for settings, error in bad:
        with pytest.raises(error):
            sets(settings, with_template(family_tokenizer, None))
    for wrong in (
        {"capability": Capability(items=-1)},
        {"over_refusal": HarmlessRequests(answer_tokens=0)},
        {"random_draws": -1},
    ):
        with pytest.raises(InvalidValue, match=r"evaluation\.side_effects"):
            SideEffects(**wrong)  # type: ignore[arg-type]


def planted(
    kind: Kind, scores: dict[str, list[float]], weights: tuple[float, ...] | None = None, **more: Any
) -> tuple[SideEffectSet, list[Measurement]]:
    """A set of items and their scores by condition; `random` twice, the second time half as large."""
    count = len(next(iter(scores.values())))
    items = tuple(Item(f"{number}") for number in range(count))
    scorer = {"capability": Choice(), "perplexity": CrossEntropy(), "over_refusal": Opening(("No",))}[kind]
    each = SideEffectSet(kind, "planted", scorer, items, weights or (1.0,) * count, **more)
    rows = [
        Measurement(kind, "test", name, draw, 0.5, item.id, "", value)
        for name, values in scores.items()
        for draw in range(1 + (name == "random"))
        for item, value in zip(items, values, strict=True)
    ]
    return each, rows


def test_accuracy_is_the_share_of_positive_gaps() -> None:
    each, rows = planted(
        "capability", {"none": [1.0, 2.0, -1.0, 3.0], "native": [1.0, -2.0, -1.0, -0.1], "random": [1.0] * 4}
    )
    summary = summarise_side_effects(each, rows)
    assert summary is not None
    at = summary["conditions"]
    assert (at["none"]["value"], at["native"]["value"], at["random"]["value"]) == (0.75, 0.25, 1.0)
    assert at["native"]["change"] == -0.5
    assert at["random"]["draws"] == 2
    low, high = at["native"]["change_ci"]
    assert -1.0 <= low <= -0.5 <= high <= 0.0
    assert "change" not in at["none"]


def test_perplexity_weighs_texts_by_their_tokens() -> None:
    scores = {"none": [1.0, 2.0], "native": [1.5, 2.5]}
    each, rows = planted("perplexity", scores, weights=(30.0, 10.0))
    summary = summarise_side_effects(each, rows)
    assert summary is not None
    assert summary["conditions"]["none"]["value"] == pytest.approx(math.exp(1.25))
    # every token costs half a nat more: so does every sample of the texts
    native = summary["conditions"]["native"]
    assert native["change"] == pytest.approx(math.exp(0.5) - 1)
    assert native["change_ci"] == pytest.approx([math.exp(0.5) - 1] * 2)


def test_intervals_are_paired_over_items() -> None:
    rng = np.random.default_rng(0)
    none = rng.normal(size=80)
    each, rows = planted("over_refusal", {"none": list(none), "native": list(none + 0.25)})
    summary = summarise_side_effects(each, rows)
    assert summary is not None
    assert summary["conditions"]["native"]["change_ci"] == pytest.approx([0.25, 0.25])
    low, high = summary["conditions"]["native"]["ci"]
    assert high - low > 0.2


def test_items_without_an_answer_are_left_out_of_all_conditions() -> None:
    each, rows = planted("over_refusal", {"none": [0.0, 0.0, 1.0], "native": [1.0, 1.0, math.nan]})
    summary = summarise_side_effects(each, rows)
    assert summary is not None
    assert (summary["items"], summary["unscored"]) == (2, 1)
    assert summary["conditions"]["native"]["change"] == 1.0
    each, rows = planted("over_refusal", {"none": [math.nan], "native": [1.0]})
    assert summarise_side_effects(each, rows) is None


def test_answers_to_requests_are_graded() -> None:
    each, rows = planted("over_refusal", {"none": [0.0, 0.0], "native": [1.0, 1.0]})
    texts = {"none": "Of course. First take a knife.", "native": "No " * 20}
    summary = summarise_side_effects(each, [replace(row, text=texts[row.condition]) for row in rows])
    assert summary is not None
    shares = {name: at["degenerate"] for name, at in summary["conditions"].items()}
    assert shares == {"none": 0.0, "native": 1.0}
