import re
from collections import Counter

import pytest

from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour, StorybookSuite, storybook_suite
from lrt.evaluation.scorers import Choice, Opening
from lrt.evaluation.storybook import NAMES, TEXT_NAMES
from lrt.lab import lexicon as lx
from lrt.lab.grammar import ASSISTANT


@pytest.fixture(scope="module")
def suite() -> dict[str, Behaviour]:
    return {b.name: b for b in storybook_suite(StorybookSuite(contrast_pairs=16, development=6, test=11))}


def test_all_behaviours_and_sizes(suite: dict[str, Behaviour]) -> None:
    assert list(suite) == list(NAMES)
    assert len(set(NAMES) - set(TEXT_NAMES)) >= 3
    for behaviour in suite.values():
        assert len(behaviour.positives) == len(behaviour.negatives) == 16
        assert (len(behaviour.development), len(behaviour.test)) == (6, 11)
        assert len({i.prompt for i in behaviour.items}) == 17
        assert all(item.prompted for item in behaviour.items)


def test_positives_score_above_negatives(suite: dict[str, Behaviour]) -> None:
    for name in ("french", "capitals", "dogs", "mood"):
        scorer = suite[name].scorer
        assert not isinstance(scorer, Choice)
        up, down = (
            [scorer.score(t) for t in side] for side in (suite[name].positives, suite[name].negatives)
        )
        if name == "mood":  # which may slip
            up, down = [sum(up) / len(up)], [sum(down) / len(down)]
            assert up[0] - down[0] > 1
        assert min(up) > max(down), name
        # the opening that is continued gives nothing away
        assert all(scorer.score(i.prompt) < min(up) / 2 for i in suite[name].items), name


def test_baselines_ask_for_what_is_measured(suite: dict[str, Behaviour]) -> None:
    for name in ("french", "capitals", "dogs", "mood"):
        for item in suite[name].items:
            assert item.prompted.endswith(item.prompt)
            assert suite[name].scorer.score(item.prompted) > suite[name].scorer.score(item.prompt)  # type: ignore[union-attr]


def test_refusal_is_removed_from_harmful_and_induced_on_harmless(suite: dict[str, Behaviour]) -> None:
    induced, removed = suite["refusal_induced"], suite["refusal_removed"]
    assert (induced.direction, removed.direction) == (1, -1)
    assert (induced.contrast, induced.positives) == (removed.contrast, removed.positives)

    def harmful(prompt: str) -> bool:
        return any(verb in prompt for verb in lx.HARMFUL_VERBS)

    assert all(harmful(p) for p in removed.positives)
    assert not any(harmful(p) for p in removed.negatives)
    assert all(harmful(i.prompt) for i in removed.items)
    assert not any(harmful(i.prompt) for i in induced.items)
    assert isinstance(removed.scorer, Opening)
    for refusal in lx.REFUSALS:
        assert removed.scorer.score(refusal.format(verb="rob")) == 1
    for answer in lx.ANSWERS:
        assert removed.scorer.score(f"{answer} First take a map.") == 0


@pytest.mark.parametrize("trait", [t.name for t in lx.TRAITS])
def test_questions_are_balanced_over_letters(suite: dict[str, Behaviour], trait: str) -> None:
    behaviour, words = suite[trait], lx.TRAIT_BY_NAME[trait]
    assert behaviour.is_choice
    for items, expected in ((behaviour.development, {"A": 3, "B": 3}), (behaviour.test, {"A": 6, "B": 5})):
        assert Counter(i.key for i in items) == expected
        for item in items:
            first, second = re.search(r"can \(A\) (.*?) or \(B\) (.*?)\. ", item.prompt).groups()  # type: ignore[union-attr]
            assert re.search(rf"What does (\w+) do\?{re.escape(ASSISTANT)}\1 will$", item.prompt)
            assert item.matching == f" { {'A': first, 'B': second}[item.key] }"
            assert {item.matching[1:], item.other[1:]} == {first, second}
            assert item.matching[1:] in words.positive_acts
            assert item.other[1:] in words.negative_acts
            assert not any(f" {adjective}. " in item.prompt for adjective in words.positive + words.negative)
    opened = suite[f"{trait}_open"]
    assert (opened.contrast, opened.positives, opened.negatives) == (
        trait,
        behaviour.positives,
        behaviour.negatives,
    )
    assert all(any(w in p for w in words.positive) for p in behaviour.positives)
    assert all(any(w in p for w in words.negative) for p in behaviour.negatives)


def test_many_items_stay_distinct_and_held_out() -> None:
    # so many that drawing each half by itself would repeat questions; Behaviour refuses those
    (trait,) = storybook_suite(
        StorybookSuite(names=("bravery",), contrast_pairs=2, development=200, test=200)
    )
    assert len({i.prompt for i in trait.items}) == 400
    (removed,) = storybook_suite(
        StorybookSuite(names=("refusal_removed",), contrast_pairs=300, development=20, test=200)
    )
    asked = {text.partition(ASSISTANT)[0] + ASSISTANT for text in removed.positives + removed.negatives}
    assert not {i.prompt for i in removed.items} & asked


def test_same_seed_same_suite() -> None:
    def one(seed: int) -> Behaviour:
        (behaviour,) = storybook_suite(
            StorybookSuite(names=("mood",), contrast_pairs=4, development=2, test=2, seed=seed)
        )
        return behaviour

    assert one(0) == one(0)
    assert not set(one(0).texts) & set(one(1).texts)


def test_bad_settings() -> None:
    for wrong, named in (
        ({"names": ("cats",)}, "cats"),
        ({"names": ("dogs", "dogs")}, "names"),
        ({"contrast_pairs": 1}, "contrast_pairs=1"),
    ):
        with pytest.raises(InvalidValue, match=named):
            StorybookSuite(**wrong)  # type: ignore[arg-type]
