import string
from unicodedata import normalize
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.corpora import Decontaminator, shared_documents, text_id
from lrt.corpora.words import count_words

REQUEST = "How can I build a kite out of paper and string?"


def test_whole_text_is_recognised_whatever_its_length() -> None:
    listed = Decontaminator(["Yes", REQUEST])
    assert listed.matches(" Yes\n")
    assert not listed.matches("Yes, of course")


def test_long_text_is_recognised_inside_a_document() -> None:
    listed = Decontaminator([REQUEST])
    assert listed.matches(f"<|user|>{REQUEST}<|assistant|>Like this.")
    assert not listed.matches(REQUEST.replace("kite", "boat"))


def test_short_texts_are_not_searched_inside() -> None:
    assert not Decontaminator(["Once upon a time"]).matches("Once upon a time there was a dog.")
    assert Decontaminator(["Once upon a time"], contained_from_words=4).matches("Once upon a time.")


def test_a_document_that_begins_with_an_items_prompt_is_recognised() -> None:
    listed = Decontaminator(["On Monday, Mia went to the harbour.", "Mia went home"])
    assert listed.matches(" On Monday, Mia went to the harbour. There Mia saw a dog.")
    assert not listed.matches("It rained. On Monday, Mia went to the harbour.")
    assert not listed.matches("Mia went home. It rained.")  # too short to leak anything


def test_nothing_excluded_matches_nothing() -> None:
    assert not Decontaminator([]).matches("anything")
    assert not Decontaminator(["", "  "]).matches("")


def test_anchor_must_have_neighbours() -> None:
    with pytest.raises(ValueError, match="contained_from_words=2"):
        Decontaminator([], contained_from_words=2)


@given(
    st.lists(st.text(string.ascii_letters, min_size=1, max_size=5), min_size=8, max_size=12),
    st.text(string.ascii_letters + " .<>", max_size=20),
    st.text(string.ascii_letters + " .<>", max_size=20),
)
def test_search_by_anchor_finds_what_plain_search_finds(words: list[str], before: str, after: str) -> None:
    item = " ".join(words)
    listed = Decontaminator([item, "something else of eight words or more than that"])
    assert listed.matches(before + item + after)  # glued to its neighbours too
    other = before + " ".join(words[1:]) + after
    assert listed.matches(other) == (item in other or other.strip() == item)


CHINESE = "我们应该怎样用纸和细绳在周末的下午做一只会飞的风筝?"


def test_texts_without_spaces_are_searched_too() -> None:
    listed = Decontaminator([CHINESE, "从前有一个国王住在很远的山上。"])
    assert listed.matches(f"<|user|>{CHINESE}<|assistant|>这样。")
    assert listed.matches(f"好{CHINESE}好")
    assert not listed.matches(CHINESE.replace("风筝", "小船"))
    assert listed.matches("从前有一个国王住在很远的山上。他有一只狗。")
    assert not Decontaminator(["从前有一个国王"]).matches("从前有一个国王住在很远的山上。")  # too short


def test_unicode_normal_forms_are_equal() -> None:
    text = "Où est-ce que je peux acheter des crêpes près d'ici ?"
    for form in ("NFC", "NFD"):
        for other in ("NFC", "NFD"):
            listed = Decontaminator([normalize(form, text)])
            assert listed.matches(normalize(other, f"Bonjour. {text} Merci."))
    assert Decontaminator([text]).texts == Decontaminator([normalize("NFD", text), "", text]).texts


class Compared(str):
    """A text that counts the texts that are compared with it."""

    __slots__ = ("number",)
    number: int

    def __contains__(self, other: str) -> bool:
        self.number += 1
        return str.__contains__(self, other)


def test_a_document_is_not_compared_with_all_texts_of_its_template() -> None:
    asked = "Is the following statement something that you would say? {} {}"
    items = [asked.format(n, n * n) for n in range(100)]
    listed = Decontaminator(items)
    for document, most in ((asked.format("nothing", "else"), 0), (f"So. {items[7]} No.", 2)):
        text = Compared(document)
        text.number = 0
        with mock.patch("lrt.corpora.decontamination.normalize", lambda _form, same: same):
            assert listed.matches(text) == bool(most)
        assert text.number <= most


@given(
    st.lists(st.text("abÀ1 纸細 べタ ก한.", min_size=1, max_size=24), min_size=1, max_size=4),
    st.text("ab 纸細べก한.", max_size=12),
    st.text("ab 纸細べก한.", max_size=12),
)
def test_it_finds_what_plain_search_finds_in_every_script(texts: list[str], before: str, after: str) -> None:
    listed = Decontaminator(texts)
    for text in listed.texts:
        document = normalize("NFC", f"{before}{text}{after}")
        contained = [t for t in listed.texts if count_words(t) >= 8 and t in document]
        assert listed.matches(document) or not contained


def test_documents_are_found_for_the_list_that_recognises_them() -> None:
    item, prompt = "Tell me how to bake a loaf of dark bread.", "Short one"
    texts = [f"So. {item} Thanks.", prompt, f"{item} {prompt}", "Something else altogether."]
    documents = [(text_id(text), text) for text in texts]
    ids = [id_ for id_, _ in documents]
    found = shared_documents(
        documents, {"bread": [item], "short": [prompt], "both": [item, prompt], "no": []}
    )
    assert found == {"bread": [ids[0], ids[2]], "short": [ids[1]], "both": ids[:3], "no": []}


@given(st.lists(st.sampled_from(["kite", "paper", "string", "build a kite out of paper"]), max_size=6))
def test_they_are_those_that_each_list_would_find_alone(words: list[str]) -> None:
    documents = [(n, " ".join([*words[:n], REQUEST, *words[n:]][: n + 2])) for n in range(6)]
    lists = {"request": [REQUEST], "words": words, "other": ["nothing of the kind is in here at all"]}
    found = shared_documents(documents, lists)
    for name, listed in lists.items():
        assert found[name] == [id_ for id_, text in documents if Decontaminator(listed).matches(text)]
