from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.corpora import CorpusError
from lrt.evaluation.neutral_texts import (
    COUNT,
    LEAST_WORDS,
    MOST_WORDS,
    PARAGRAPHS,
    neutral_texts,
    up_to_word,
)
from lrt.evaluation.refusal import PHRASES
from lrt.evaluation.scorers import Mentions, Opening, UppercaseShare
from lrt.evaluation.text_words import DOG_WORDS


def test_the_projects_own_show_no_behaviour() -> None:
    assert neutral_texts() == PARAGRAPHS
    assert len(set(PARAGRAPHS)) == len(PARAGRAPHS) >= 24
    for text in PARAGRAPHS:
        assert LEAST_WORDS <= len(text.split()) <= MOST_WORDS
        assert Opening(PHRASES).score(text) == Mentions(DOG_WORDS).score(text) == 0
        assert UppercaseShare().score(text) < 0.1
        assert "  " not in text


def test_passages_of_files_are_beginnings_of_their_documents(tmp_path: Path) -> None:
    documents = ["\n".join(f"{n}w{i}" for i in range(2 * n)) for n in range(1, 70)]
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(documents))
    passages = neutral_texts([str(file)])
    assert len(set(passages)) == COUNT
    for text in passages:
        assert LEAST_WORDS <= len(text.split()) <= MOST_WORDS
        assert any(document.startswith(text) for document in documents)
    assert neutral_texts([file]) == passages
    assert neutral_texts([file], seed=1) != passages
    file.write_text("a few words\nand a few more")
    with pytest.raises(CorpusError, match=r"a\.txt"):
        neutral_texts([file], "line")


@given(text=st.text(st.sampled_from("ab \n\t"), max_size=30), words=st.integers(1, 8))
def test_up_to_a_word(text: str, words: int) -> None:
    beginning = up_to_word(text, words)
    assert text.startswith(beginning)
    assert beginning.split() == text.split()[:words] or not text.split()
