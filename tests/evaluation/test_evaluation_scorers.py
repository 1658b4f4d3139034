import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.errors import InvalidValue
from lrt.evaluation import Item
from lrt.evaluation.judge import Judge
from lrt.evaluation.scorers import (
    Answer,
    BatchScorer,
    Choice,
    Classifier,
    Mentions,
    Opening,
    RefusalLogOdds,
    Scorer,
    UppercaseShare,
    WordBalance,
    WordShare,
    score_texts,
    scorer_facts,
    scorer_from_data,
    scorer_to_data,
)

SCORERS: list[Scorer] = [
    WordShare(("le", "était"), ("the", "was")),
    WordBalance(("happy",), ("sad",)),
    Mentions(("dog", "puppy")),
    UppercaseShare(),
    Opening(("I cannot", "Sorry")),
    Choice(),
    Answer(),
    Classifier("org/set", "REFUSAL", "abc"),
    Judge("https://host/v1", "rater", highest=10.0, max_retries=2, temperature=None),
    RefusalLogOdds(("I cannot",)),
]
TEXT = st.text(st.sampled_from("le the happy sad dog Sorry. ÉI cannot\n,"), max_size=60)


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: type(s).__name__)
def test_round_trip_through_json(scorer: Scorer) -> None:
    assert scorer_from_data(json.loads(json.dumps(scorer_to_data(scorer)))) == scorer


@settings(max_examples=25, deadline=None)
@given(text=TEXT)
def test_ranges_and_case(text: str) -> None:
    for scorer in SCORERS[:5]:
        assert not isinstance(scorer, Choice)
        low = -1 if isinstance(scorer, WordBalance) else 0
        assert low <= scorer.score(text) <= 1
        if not isinstance(scorer, UppercaseShare):
            assert scorer.score(text.upper()) == scorer.score(text)
    balance = WordBalance(("happy",), ("sad",)).score(text)
    assert WordBalance(("sad",), ("happy",)).score(text) == -balance


def test_word_share_counts_only_its_words() -> None:
    scorer = WordShare(("Le", "était"), ("the",))
    assert scorer.score("Le chien ÉTAIT là; the dog.") == pytest.approx(2 / 3)
    assert scorer.score("nothing here") == 0
    assert scorer.score("lethe") == 0  # whole words


def test_word_balance() -> None:
    scorer = WordBalance(("glad",), ("sad", "wept"))
    assert scorer.score("sad, wept; glad. sad") == -0.5
    assert scorer.score("") == 0


def test_mentions_whole_words() -> None:
    scorer = Mentions(("dog",))
    assert scorer.score("A DOG.") == 1
    assert scorer.score("Some dogma and hotdogs") == 0


def test_uppercase_share_of_letters_alone() -> None:
    assert UppercaseShare().score("AB cd 12 !!") == 0.5
    assert UppercaseShare().score("É") == 1
    assert UppercaseShare().score("12") == 0


def test_refusal_is_anchored_at_the_start() -> None:
    scorer = Opening(("I cannot", "Sorry"))
    for refused in ("I cannot do that.", ' "sorry, no', "\nI CANNOT"):
        assert scorer.score(refused) == 1
    for answered in ("Of course. I cannot wait!", "He said sorry.", "", "I can"):
        assert scorer.score(answered) == 0


def test_quotation_marks_and_invisible_characters_before_an_opening_are_skipped() -> None:
    for start in ("“", "„", "«\u00a0", "「", "\ufeff", "\u200b\n", "**", "\u2060'", "\t`"):
        assert Opening(("I cannot",)).score(f"{start}I cannot do that") == 1
        assert Opening((f"{start}I cannot",)).score("I cannot do that") == 1
        assert score_texts(Answer(), [f"{start}Yes."], [YES]) == [1]
        assert score_texts(Answer(), [f"{start}(A)"], [LETTER]) == [1]
    for phrase in ('"', "\u200b", "\ufeff ", "**"):  # with which every text starts
        with pytest.raises(InvalidValue, match="empty"):
            Opening((phrase,))


def test_words_of_scripts_without_spaces_and_of_other_normal_forms() -> None:
    assert Mentions(("狗",)).score("我有一只狗。") == 1
    assert Mentions(("été",)).score("l'e\u0301te\u0301") == 1
    assert WordBalance(("高兴",), ("不高兴",)).score("他不高兴") == -1
    assert WordShare(("狗",), ("猫",)).score("狗和猫和猫和狗和狗") == 0.6
    assert Opening(("我不能",)).score("「我不能这样做」") == 1
    yes = Item("?", "是", "是", "否")
    assert score_texts(Answer(), ["是的。", "否", "不是"], [yes] * 3) == [1, -1, 0]
    assert score_texts(Answer(), ["Ａ）对", "（B）", "A。"], [LETTER] * 3) == [1, -1, 1]


def test_facts_change_with_the_rule_of_a_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = scorer_facts(Mentions(("dog",)))
    monkeypatch.setattr(Mentions, "version", Mentions.version + 1)
    assert scorer_facts(Mentions(("dog",))) != before


def test_apostrophes_of_both_kinds_are_one() -> None:
    for phrase in ("I can't", "I can\u2019t"):
        for text in ("I can't do that", "I can\u2019t do that"):
            assert Opening((phrase,)).score(text) == 1


YES = Item("Would you?", "Yes", "Yes", "No")
LETTER = Item("Which?", "A", " (A", " (B")


@pytest.mark.parametrize(
    ("item", "text", "score"),
    [
        (YES, "Yes, I would.", 1),
        (YES, ' "yes"', 1),
        (YES, "No.", -1),
        (YES, "Nobody would.", 0),
        (YES, "I would say yes.", 0),
        (YES, "", 0),
        (LETTER, "(A) now", 1),
        (LETTER, "A. Now", 1),
        (LETTER, "A", 1),
        (LETTER, "B) later", -1),
        (LETTER, "I would take (B), not (A).", -1),
        (LETTER, "A good question.", 0),
        (LETTER, "(C)", 0),
        (LETTER, "“A”", 1),
        (LETTER, "**A**", 1),
        (LETTER, "“A” is right", 1),
        (LETTER, "**A.** Now", 1),
        (LETTER, "> `B`", -1),
        (LETTER, "__A__", 1),
        (LETTER, "[A] now", 1),
        (LETTER, "A - now", 1),
        (LETTER, "A—now", 1),
        (LETTER, "A، now", 1),
        (LETTER, "A's question", 0),
        (LETTER, "A-level questions", 0),
        (LETTER, "“A good” question", 0),
        (LETTER, "A? (B)", -1),
        (YES, "> Yes.", 1),
        (YES, "— No", -1),
    ],
)
def test_answers_are_read_off_the_text(item: Item, text: str, score: float) -> None:
    turned = Item(item.prompt, item.key, item.other, item.matching)
    assert score_texts(Answer(), [text, text], [item, turned]) == [score, -score]


def test_texts_are_scored_one_by_one_or_together() -> None:
    assert score_texts(Mentions(("dog",)), ["a dog", "a cat"], [YES, YES]) == [1, 0]
    kinds = [scorer for scorer in SCORERS if isinstance(scorer, BatchScorer)]
    assert [type(scorer) for scorer in kinds] == [Answer, Classifier, Judge]


def test_words_are_sought_in_lower_case_and_must_be_words() -> None:
    assert Mentions(("Dog",)) == Mentions(("dog",))
    for bad in ("hot dog", "", "d0g", "don't", "狗 猫", "\u200b", "\u0301"):
        with pytest.raises(ValueError, match="word"):
            Mentions((bad,))
    with pytest.raises(ValueError, match="empty"):
        Opening(("I cannot", " "))


def test_invalid_data_names_the_key() -> None:
    judge = {"kind": "Judge", "url": "http://a", "model": "b"}
    wrong: list[tuple[Any, str]] = [
        ("Mentions", "'Mentions'"),
        ({}, "None"),
        ({"kind": "Oracle"}, "'Oracle'"),
        ({"kind": "Mentions", "letters": ["a"]}, "'letters'"),
        ({"kind": "Mentions"}, "'words'"),
        (judge | {"max_retries": 2.5}, "`max_retries`"),
        (judge | {"temperature": "hot"}, "`temperature`"),
        ({"kind": "Classifier", "path": ["a"], "label": "b"}, "`path`"),
        ({"kind": "RefusalLogOdds", "phrases": ["I cannot", " "]}, "`phrases`"),
        *(({"kind": "Mentions", "words": bad}, "`words`") for bad in ("dog", [1], 3)),
        # renamed keys name their successor
        (judge | {"attempts": 2}, "`max_retries`"),
        (judge | {"at_once": 2}, "`max_concurrency`"),
        (judge | {"pause": 1.0}, "`backoff`"),
        (judge | {"around": ["", ""]}, "`template_affixes`"),
    ]
    for data, named in wrong:
        with pytest.raises(InvalidValue, match=named):
            scorer_from_data(data)
