"""Texts in the tokens of two models: the spans that both cut out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, TEXTS
from transformers import PreTrainedTokenizerFast

from lrt.corpora import Document, NotAligned
from lrt.corpora.alignment import (
    AlignedText,
    Encoded,
    OffsetTokenizer,
    TokenAligner,
    check_offsets,
    side_by_side,
    spans,
)
from lrt.models.sides import STAYS

PARTS = [
    *TEXTS,
    *(
        "a",
        "b",
        "dog",
        "Dog's",
        " ",
        "  ",
        "\n",
        " \r\n",
        "\t",
        "12",
        "x_1",
        "==",
        "<b>",
        "##",
        "</w>",
        "Ġ",
        "▁",
    ),
    *("é", "e\u0301", "\u0301", "ß", "İ", "ﬁ", "㍿", "½", "\u00a0", "\u200b", "\ufffd", "\x07"),
    *("🎉", "👩\u200d👩\u200d👧", "🇫🇷", "北京", "한국", "\u1112\u1161\u11ab", "ไทย", "שלום", "ال"),
]
texts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join)
kinds = st.sampled_from(sorted(KINDS))


def encoded(kind: str, text: str) -> Encoded:
    (one,) = OffsetTokenizer(KINDS[kind](), "source").encode([text])
    assert isinstance(one, Encoded), one
    return one


def gap(tokens: Encoded, before: int, length: int) -> tuple[int, int]:
    """The first and last character at which tokens part after so many."""
    return max(tokens.stop[:before], default=0), min(tokens.start[before:], default=length)


@settings(max_examples=60, deadline=None)
@given(kinds, kinds, texts)
@example("byte-level", "WordPiece", "a\n")
@example("WordPiece", "byte-level", "\x07a")
@example("SentencePiece BPE", "byte-level", " a")
def test_spans_cover_a_text_between_tokens_of_both(one: str, other: str, text: str) -> None:
    source, target = encoded(one, text), encoded(other, text)
    bounds = spans(source, target, [(0, 0, len(text))])
    if not len(source) or not len(target):
        assert len(bounds) == 0
        return
    # they cover the text and all tokens, and none overlap
    for column, length in ((0, len(source)), (2, len(target)), (4, len(text))):
        assert bounds[0, column] == 0
        assert bounds[-1, column + 1] == length
        np.testing.assert_array_equal(bounds[1:, column], bounds[:-1, column + 1])
        assert (bounds[:, column] < bounds[:, column + 1]).all()
    # each ends at a character at which tokens of both part, and there is no other such character within it
    ends = {(int(s), int(t)) for s, t in bounds[:, [1, 3]]}
    for s, t in ends:
        (low, high), (other_low, other_high) = gap(source, s, len(text)), gap(target, t, len(text))
        assert max(low, other_low) <= min(high, other_high)
    for row in bounds:
        for s in range(row[0] + 1, row[1]):
            for t in range(row[2] + 1, row[3]):
                (low, high), (other_low, other_high) = gap(source, s, len(text)), gap(target, t, len(text))
                new = max(low, other_low) > row[4] and min(high, other_high) < row[5]
                assert not (new and max(low, other_low) <= min(high, other_high)), (row, s, t)


@settings(max_examples=20, deadline=None)
@given(kinds, texts)
def test_of_one_tokenizer_every_token_that_parts_characters_is_a_span(kind: str, text: str) -> None:
    tokens = encoded(kind, text)
    bounds = spans(tokens, tokens, [(0, 0, len(text))])
    np.testing.assert_array_equal(bounds[:, :2], bounds[:, 2:4])
    sizes = bounds[:, 1] - bounds[:, 0]
    for start, stop in bounds[sizes > 1][:, :2]:  # of pieces of a character alone
        assert all(
            gap(tokens, at, len(text))[0] >= gap(tokens, at, len(text))[1] for at in range(start + 1, stop)
        )


def test_pieces_of_a_character_belong_to_the_span_that_holds_it() -> None:
    text = "a 🎉b"
    bounds = spans(encoded("byte-level", text), encoded("SentencePiece BPE", text), [(0, 0, len(text))])
    assert {text[start:stop] for start, stop in bounds[:, 4:]} <= {"a", " ", " 🎉", "🎉", "b", "🎉b", "a 🎉"}
    assert all(stop - start > 0 for start, stop in bounds[:, 4:])


def test_offsets_that_hold_no_spaces_are_not_taken_for_the_tokens_own() -> None:
    text = "dog dog"
    offsets = KINDS["byte-level"]()(text, return_offsets_mapping=True)["offset_mapping"]
    assert [start for start, _ in offsets] != encoded("byte-level", text).start.tolist()
    assert "".join(text[start:stop] for start, stop in offsets if stop > start) == "dogdog"


def test_shared_runs_of_two_texts() -> None:
    source, target = "[user] a dog\n[bot]", "<s>User: a dog</s>"
    ours, theirs = encoded("byte-level", source), encoded("WordPiece", target)
    run = (source.index("a dog"), target.index("a dog"), len("a dog"))
    bounds = spans(ours, theirs, [run])
    assert bounds[0, 4] >= run[0]
    assert bounds[-1, 5] == run[0] + run[2]
    for row in bounds:  # the characters of its tokens, in either text
        assert source[ours.start[row[0]] : ours.stop[row[1] - 1]].strip() == source[row[4] : row[5]].strip()
        part = target[theirs.start[row[2]] : theirs.stop[row[3] - 1]]
        assert part == source[row[4] : row[5]].strip()


# -- what cannot be aligned ---------------------------------------------------------------------------


class Lowering(PreTrainedTokenizerFast):
    """Writes some letters as two before its rules see them, so that offsets are of another text."""

    def __call__(self, text: Any, **settings: Any) -> Any:
        changed = [each.replace("ß", "ss") for each in text] if isinstance(text, list) else text
        return super().__call__(changed, **settings)


def lowering() -> Any:
    made = KINDS["byte-level"]()
    return Lowering(tokenizer_object=made.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")


def test_code_that_changes_a_text_is_noticed() -> None:
    aligner = TokenAligner(lowering(), KINDS["WordPiece"]())
    whole, changed = aligner.align([Document("a dog"), Document("Größe and more")])
    assert isinstance(whole, AlignedText)
    assert isinstance(changed, NotAligned)
    assert "source" in str(changed)
    assert "Größe" in str(changed)


class Shifted(OffsetTokenizer):
    """Counts every emoji as two characters, as UTF-16 does."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, "target")
        rules = self._rules

        class Rules:
            def encode_batch(self, texts: Any, **settings: Any) -> Any:
                for text, each in zip(texts, rules.encode_batch(texts, **settings), strict=True):
                    wide = np.cumsum([0, *(1 + (ord(c) > 0xFFFF) for c in text)])
                    yield type(
                        "Encoding",
                        (),
                        {
                            "ids": each.ids,
                            "offsets": [
                                (min(int(wide[a]), len(text)), min(int(wide[b]), len(text)))
                                for a, b in each.offsets
                            ],
                        },
                    )()

        self._rules = Rules()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_offsets_that_do_not_say_what_was_changed_are_noticed(kind: str) -> None:
    shifted = Shifted(KINDS[kind]())
    plain, one, late = shifted.encode(
        [
            "no emoji here at all",
            "🎉🎉🎉 and then the dog and another dog",
            "the dog " * 30 + "🎉🎉🎉" + " and a name" * 30,
        ]
    )
    assert isinstance(plain, Encoded)
    for wrong in (one, late):
        assert isinstance(wrong, NotAligned)
        assert "target" in str(wrong)


def test_a_tokenizer_without_rules_is_refused() -> None:
    with pytest.raises(NotAligned, match=r"tokenizer\.json"):
        check_offsets(object(), "source")


@settings(max_examples=25, deadline=None)
@given(kinds, kinds, kinds, texts)
@example("WordPiece", "byte-level", "Unigram", "\x07")
def test_several_models_read_a_text_in_steps(one: str, other: str, third: str, text: str) -> None:
    models = [encoded(kind, text) for kind in (one, other, third)]
    steps = side_by_side(side_by_side(models[0], models[1], len(text)), models[2], len(text))
    if not all(map(len, models)):
        assert len(steps) == 0
        return
    for column, model in zip(steps.ids.T, models, strict=True):
        np.testing.assert_array_equal(column[column != STAYS], model.ids)
    assert (steps.ids != STAYS).any(axis=1).all()
    # spans with a further model end where tokens of all of them do
    for row in spans(steps, models[0], [(0, 0, len(text))]):
        for column, model in zip(steps.ids.T, models, strict=True):
            low, high = gap(model, int((column[: row[1]] != STAYS).sum()), len(text))
            assert low <= row[5] <= max(high, len(text) if row[5] == len(text) else high)
