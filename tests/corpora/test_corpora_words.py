import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.corpora.words import (
    after_opening,
    count_words,
    find_words,
    fold,
    is_blank,
    is_word,
    pieces,
    starts_with_word,
    word_ends,
)

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def times(word: str, text: str) -> int:
    return len(find_words((fold(word),), text))


@pytest.mark.parametrize(
    ("word", "text", "count"),
    [
        # scripts with spaces: whole words
        ("dog", "A dog, dogs and a hotdog. DOG!", 2),
        ("cat", "concatenate", 0),
        ("dog", "dog2 _dog_ 3dog", 3),
        ("qu", "Qu'il dise qu’elle", 2),
        ("कुत्ता", "मेरा कुत्ता है।", 1),
        ("कुत", "मेरा कुत्ता है।", 0),
        # without: wherever the characters stand
        ("狗", "我有一只狗。", 1),
        ("不高兴", "我不高兴", 1),
        ("犬", "犬がいます", 1),
        ("いぬ", "かわいいいぬがいます", 1),
        ("イヌ", "ｲﾇがいる", 1),
        ("アニメーション", "このアニメーションは", 1),
        ("แมว", "ฉันมีแมวหนึ่งตัว", 1),
        ("ຫມາ", "ຂ້ອຍມີຫມາໂຕຫນຶ່ງ", 1),
        ("ឆ្កែ", "ខ្ញុំមានឆ្កែមួយ", 1),
        ("ခွေး", "ကျွန်တော့်မှာခွေးတစ်ကောင်", 1),
        ("ཁྱི", "ང་ལ་ཁྱི་ཞིག་ཡོད།", 1),
        # but not a part of a syllable
        ("มว", "แมว", 0),
        ("ក", "កែ", 0),
        ("က", "က်", 0),
        # Korean particles are written after their word
        ("개", "개가 있다. 나는 개를 본다. 개들은 개에게서는 개입니다", 5),
        ("강아지", "강아지들이 온다", 1),
        ("개", "무지개가 떴다. 3개월 동안", 0),
        ("나무", "나무로부터 나무라고 나무라도 나무에서부터 나무만큼 나무로서는", 6),
        ("친구", "친구에게는요, 친구도요. 친구들에게까지도 친구입니까", 4),
        ("개", "개요 개인 개미 개나리", 0),
        # Persian endings after a half-space
        ("گربه", "گربه\u200cها گربه\u200cهای گربه\u200cاش گربه\u200cام گربه\u200cهایی\u200cاند", 5),
        ("گربه\u200cها", "گربه\u200cها گربهها", 2),
        ("کتاب", "کتاب\u200cخانه", 0),
        ("خواهم", "می\u200cخواهم", 0),
        # letters of two scripts side by side
        ("dog", "我有dog吗", 1),
        ("dog", "dog는 좋다", 1),
        ("dog", "我有dogs吗", 0),
        ("卡拉OK", "去卡拉ok吧", 1),
        ("卡拉OK", "卡拉OKAY", 0),
        # one word in two spellings
        ("été", "ETE E\u0301TE\u0301", 1),
        ("dog", "ＤＯＧ", 1),
        ("dog", "d\u00ado\u2060g\ufeff", 1),
        ("dog", "dog\u200bdog", 2),
        ("dog", "dog\u0308", 0),
        ("Straße", "STRASSE", 1),
        ("ışık", "IŞIK", 1),
        ("istanbul", "İSTANBUL", 1),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς", 1),
        ("كلب", "هذا كَلْبٌ كلـــب", 2),
        ("כלב", "כֶּלֶב", 1),
        ("犬", "⽝", 1),
    ],
)
def test_words_are_found_by_the_rule_of_their_script(word: str, text: str, count: int) -> None:
    assert is_word(fold(word))
    for form in FORMS:
        for other in FORMS:
            assert times(unicodedata.normalize(form, word), unicodedata.normalize(other, text)) == count


def test_what_is_not_one_word_is_not_found() -> None:
    for word in ("", " ", "hot dog", "d0g", "don't", "狗 猫", "狗。", "\u0301", "\u200b", "ـ", "🐶", "½"):
        assert not is_word(fold(word))
    assert find_words((), "a dog") == []


def test_the_longest_word_counts() -> None:
    assert find_words(("高兴", "不高兴"), "我不高兴,他高兴") == ["不高兴", "高兴"]


LETTERS = st.text(st.sampled_from("abcdogDOGéèÉœçà '-_.,3\n"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(text=LETTERS, words=st.lists(st.sampled_from(["a", "dog", "é", "à", "ça", "œ", "go"])))
def test_words_of_latin_texts_are_runs_of_letters(text: str, words: list[str]) -> None:
    runs = re.findall(r"[^\W\d_]+", text.lower())
    assert find_words(tuple(words), text) == [run for run in runs if run in words]
    assert list(word_ends(text)) == [match.end() for match in re.finditer(r"\S+", text)]
    assert count_words(text) == len(re.findall(r"\w+", text))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=20))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert not is_word(fold(text)) or times(text, text) == 1


MARKS = ("❝I", "❛I", "🙶I", "> I", "> > “I", ">I", "# I", "- I", "— I", "~~I", "> **I")


def test_openings() -> None:
    for text in ("“I", "\ufeff\u200b I", "**«I", " \t\r\n'I", "「I", "\u3164\u2800I", "_I", *MARKS):
        assert after_opening(text) == "I"
        assert starts_with_word(text, "i")
    for text in ("(I", "-I", "#I", "1. I", "...I"):
        assert after_opening(text) == text
    assert starts_with_word("是的。", "是")
    assert not starts_with_word("不是", "是")
    assert not starts_with_word("Nobody", "No")


def test_texts_without_anything_to_see() -> None:
    for text in ("", " \n", "\ufeff", "\ufeff\ufeff\u200b\n\x00", "\u3164"):
        assert is_blank(text)
    assert not is_blank("\ufeffx")


def test_words_are_counted_without_spaces() -> None:
    assert count_words("从前有一个国王") == 4
    assert count_words("กาลครั้งหนึ่งนานมาแล้ว") == 6
    assert [*word_ends("我有一只狗。x y")] == [2, 4, 6, 7, 9]


@settings(max_examples=100, deadline=None)
@given(*(st.text(st.sampled_from("ab 狗猫、ก"), max_size=12),) * 3)
def test_inner_pieces_are_pieces_of_every_longer_text(before: str, text: str, after: str) -> None:
    if count_words(text) >= 3:
        inner = pieces(text, inner=True)
        assert inner
        assert set(inner) <= set(pieces(before + text + after))
