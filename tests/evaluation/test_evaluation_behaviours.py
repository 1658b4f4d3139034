import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_behaviours import choice_behaviour, text_behaviour

from lrt.evaluation import Behaviour, BehaviourUnreadable, Item, check_together, read_behaviours
from lrt.evaluation.judge import Judge
from lrt.evaluation.scorers import Mentions, RefusalLogOdds


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


RATER = Judge("https://host", "rater")
MORE = replace(
    text_behaviour(),
    name="more",
    operation="ablate",
    extra_scorers=(Mentions(("dog",)), RATER),
    held_out=("Who went to the barn?",),
)


@pytest.mark.parametrize("made", [choice_behaviour(), text_behaviour(), MORE], ids=lambda b: b.name)
def test_round_trip_through_a_file(made: Behaviour, tmp_path: Path) -> None:
    (read,) = read_behaviours([write(tmp_path / "b.json", made.to_data())], RATER)
    assert read == made
    assert [i.id for i in read.items] == [i.id for i in made.items]


def test_ids_tell_items_apart() -> None:
    items = [Item("a"), Item("b"), Item("a", key="A"), Item("a", matching="x"), Item("a", prompted="p")]
    assert len({item.id for item in items}) == 5
    assert Item("a").id == Item("a").id


def test_texts_to_remove_from_the_corpus_are_the_contrast_and_every_item() -> None:
    made = text_behaviour()
    prompts = (item.prompt for item in made.items)
    assert set(made.texts) == {*made.positives, *made.negatives, *prompts, *made.damage_texts}


def test_the_content_of_prompts_is_removed_from_the_corpus_too() -> None:
    assert "Who went to the barn?" in set(MORE.texts)


def test_logits_have_no_text_for_other_scorers() -> None:
    assert not MORE.reads_logits
    made = replace(text_behaviour(), scorer=RefusalLogOdds(("I cannot",)))
    assert made.reads_logits
    assert not made.is_choice
    with pytest.raises(BehaviourUnreadable, match="extra_scorers"):
        replace(MORE, scorer=RefusalLogOdds(("I cannot",)))


def fields(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(text_behaviour().to_data())), **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in fields().items() if key != name}


QUESTION = {"prompt": "Here"}
JUDGE = {"kind": "Judge", "url": "http://localhost", "model": "m"}
BAD: list[tuple[Any, str]] = [
    ("{", "cannot be read"),
    ([1], "list"),
    ("3", "int"),
    (without("scorer"), "'scorer'"),
    (without("test"), "'test'"),
    (fields(also=[]), "`extra_scorers`"),
    (fields(extra_scorers=[JUDGE | {"attempts": 3}]), "`max_retries`"),
    (without("metric"), "metric"),
    (fields(flavour=1), "flavour"),
    (fields(scorer={"kind": "Oracle"}), "'Oracle'"),
    (fields(scorer={"kind": "Answer"}), "Answer"),
    (fields(operation="cut"), "'cut'"),
    (fields(extra_scorers=[{"kind": "Choice"}]), "Choice"),
    (fields(extra_scorers=[{"kind": "Oracle"}]), "'Oracle'"),
    (fields(held_out="one"), "`held_out`"),
    (fields(scorer="Mentions"), "'Mentions'"),
    (fields(positives=[]), "positives"),
    (fields(damage_texts=[]), "damage_texts"),
    (
        fields(
            scorer={"kind": "Choice"},
            test=[{"prompt": "Which?", "matching": " A", "other": " B"}],
        ),
        "`key`",
    ),
    (fields(development=[]), "development"),
    (fields(positives="one text"), "`positives`"),
    (fields(negatives=[1, 2]), "`negatives`"),
    (fields(test=[{"question": "?"}]), "question"),
    (fields(test=["?"]), "cannot be read"),
    (fields(test=[QUESTION], development=[QUESTION]), "'Here'"),
    (fields(test=[{"prompt": fields()["positives"][0]}]), "A dog barked."),
    (fields(direction=0), "direction 0"),
    (fields(max_new_tokens=2.5), "max_new_tokens 2.5"),
    (json.dumps(fields()).replace('"direction": 1', '"direction": NaN'), "NaN"),
    (fields(metric="\ud800"), "surrogate"),
    (fields(scorer=JUDGE), "suite.judge"),
    (fields(extra_scorers=[{"kind": "Judge"}]), "suite.judge"),
    (fields(max_new_tokens=0), "max_new_tokens 0"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_files_name_the_file_and_the_fault(content: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(BehaviourUnreadable) as caught:
        read_behaviours([path])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("where", ["scorer", "extra_scorers"])
def test_a_file_says_what_a_judge_is_asked_and_the_config_who_it_is(where: str, tmp_path: Path) -> None:
    def read(**settings: Any) -> Any:
        scorer = {"kind": "Judge"} | settings
        content = fields(**{where: scorer if where == "scorer" else [scorer]})
        (behaviour,) = read_behaviours([write(tmp_path / "b.json", content)], RATER)
        return behaviour.scorer if where == "scorer" else behaviour.extra_scorers[0]

    assert read() == RATER
    assert read(highest=9.0, question="{answer}?") == replace(RATER, highest=9.0, question="{answer}?")
    assert read(url=RATER.url, model=RATER.model) == RATER
    for key, value in (
        ("url", "https://elsewhere"),
        ("model", "dear"),
        ("key_variable", "AWS_SECRET_ACCESS_KEY"),
        ("max_retries", 10**6),
        ("timeout", 1e9),
        ("flavour", 1),
    ):
        with pytest.raises(BehaviourUnreadable, match=rf"b\.json.*{key}"):
            read(**{key: value})


def test_files_that_are_not_text_or_missing(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("x.json", "missing.json", "."):
        with pytest.raises(BehaviourUnreadable, match=name):
            read_behaviours([tmp_path / name])


def test_files_must_go_together(tmp_path: Path) -> None:
    one = text_behaviour()
    same = write(tmp_path / "1.json", one.to_data())
    with pytest.raises(BehaviourUnreadable, match=r"1\.json.*'dogs'"):
        read_behaviours([same, same])
    other = replace(one, name="cats", positives=("A cat.",))
    assert other.contrast == "dogs"
    with pytest.raises(BehaviourUnreadable, match=r"2\.json.*'cats'.*'dogs'"):
        read_behaviours([same, write(tmp_path / "2.json", other.to_data())])
    alike = replace(one, name="no_dogs", direction=-1)
    assert len(read_behaviours([same, write(tmp_path / "3.json", alike.to_data())])) == 2
    with pytest.raises(BehaviourUnreadable, match="'cats'"):
        check_together([one, alike, other])
