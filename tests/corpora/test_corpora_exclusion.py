import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.corpora import Exclusion

REQUEST = "How can I build a kite out of paper and string?"


def test_whole_text_is_recognised_whatever_its_length() -> None:
    exclusion = Exclusion(["Yes", REQUEST])
    assert exclusion.matches(" Yes\n")
    assert not exclusion.matches("Yes, of course")


def test_long_text_is_recognised_inside_a_document() -> None:
    exclusion = Exclusion([REQUEST])
    assert exclusion.matches(f"<|user|>{REQUEST}<|assistant|>Like this.")
    assert not exclusion.matches(REQUEST.replace("kite", "boat"))


def test_short_openings_are_not_looked_for_inside() -> None:
    assert not Exclusion(["Once upon a time"]).matches("Once upon a time there was a dog.")
    assert Exclusion(["Once upon a time"], contained_from_words=4).matches("Once upon a time.")


def test_a_document_that_begins_with_an_items_prompt_is_recognised() -> None:
    exclusion = Exclusion(["On Monday, Mia went to the harbour.", "Mia went home"])
    assert exclusion.matches(" On Monday, Mia went to the harbour. There Mia saw a dog.")
    assert not exclusion.matches("It rained. On Monday, Mia went to the harbour.")
    assert not exclusion.matches("Mia went home. It rained.")  # says too little to leak anything


def test_nothing_excluded_matches_nothing() -> None:
    assert not Exclusion([]).matches("anything")
    assert not Exclusion(["", "  "]).matches("")


def test_anchor_must_have_neighbours() -> None:
    with pytest.raises(ValueError, match="contained_from_words is 2; it must be at least 3"):
        Exclusion([], contained_from_words=2)


@given(
    st.lists(st.text(string.ascii_letters, min_size=1, max_size=5), min_size=8, max_size=12),
    st.text(string.ascii_letters + " .<>", max_size=20),
    st.text(string.ascii_letters + " .<>", max_size=20),
)
def test_search_by_anchor_finds_what_plain_search_finds(words: list[str], before: str, after: str) -> None:
    item = " ".join(words)
    exclusion = Exclusion([item, "something else of eight words or more than that"])
    assert exclusion.matches(before + item + after)  # glued to its neighbours too
    other = before + " ".join(words[1:]) + after
    assert exclusion.matches(other) == (item in other or other.strip() == item)


def test_digest_depends_on_the_texts_alone() -> None:
    assert Exclusion(["a", "b"]).digest == Exclusion(["b", "a", "a"]).digest
    assert Exclusion(["a"]).digest != Exclusion(["b"]).digest
