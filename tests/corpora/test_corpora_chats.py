from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.corpora import CorpusError, as_chat, conversation
from lrt.corpora.errors import ChatRefused

TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("u", TURNS[1:2]),
        (TURNS, TURNS),
        # more is said of a turn in some sets
        ([{**turn, "toxic": False, "id": 3} for turn in TURNS], TURNS),
        (tuple(TURNS), TURNS),
        (
            [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "u"},
                {"from": "gpt", "value": "a"},
            ],
            TURNS,
        ),
        ([{"role": "User", "content": "u"}, {"role": "model", "content": "a"}], TURNS[1:]),
    ],
)
def test_shapes_of_conversations(shape: Any, expected: Any) -> None:
    assert conversation(shape) == expected


def test_a_request_with_its_answer_and_what_it_is_about() -> None:
    answered = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    assert conversation("u", "a") == answered
    assert conversation("u", "a", "") == answered
    assert conversation("u", "a", " \n") == answered
    about = conversation("u", "a", "passage")
    assert about == [{"role": "user", "content": "u\n\npassage"}, answered[1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=5)), min_size=1, max_size=4)
)
def test_both_lists_of_turns_say_the_same(turns: list[tuple[str, str]]) -> None:
    theirs = {"user": "human", "assistant": "gpt"}
    ours = conversation([{"role": role, "content": text} for role, text in turns])
    assert ours == conversation([{"from": theirs[role], "value": text} for role, text in turns])
    assert [(turn["role"], turn["content"]) for turn in ours] == turns


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3,), "row 1: a int is no conversation; it is a request"),
        ((None,), "row 1: a NoneType is no conversation"),
        (([],), "row 1: an empty list is no conversation"),
        (({"role": "user", "content": "u"},), "row 1: a dict is no conversation"),
        ((["u", "a"],), 'row 1, turn 1 is a str; a conversation is .*"role", "content"'),
        (([TURNS[1], {"speaker": "b", "text": "x"}],), "row 1, turn 2 is speaker, text; a conversation is"),
        (([{"role": "tool", "content": "x"}],), "row 1, turn 1 is spoken by 'tool'; known are system, user"),
        (([{"role": None, "content": "x"}],), "row 1, turn 1 is spoken by None"),
        (([{"role": "user", "content": None}],), "row 1, turn 1 is a NoneType, not text"),
        (([{"role": "user", "content": [{"type": "image"}]}],), "row 1, turn 1 is a list, not text"),
        (("u", 3), "row 1: the answer is a int, not text"),
        (("u", "a", ["p"]), "row 1: the passage is a list, not text"),
        ((TURNS, "a"), "row 1: an answer or a passage goes with a request that is text, this is a list"),
    ],
)
def test_any_other_shape_is_named_with_its_place(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        conversation(*given, place="row 1")


def test_a_chat_is_written_in_the_template(tokenizer: Any, tokenizer_without_bos: Any) -> None:
    assert as_chat("w1", tokenizer) == "<bos>[user] w1 [assistant]"
    assert as_chat("w1", tokenizer, answer="w2", passage="w3") == "<bos>[user] w1\n\nw3 [assistant] w2 "
    # this template takes no system role
    told = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w1"}]
    assert as_chat(told, tokenizer) == "<bos>[user] w9\n\nw1 [assistant]"
    with pytest.raises(ChatRefused, match=r"row 7: the chat template takes no system role"):
        as_chat([{"role": "system", "content": "w1"}], tokenizer, "row 7")
    with pytest.raises(CorpusError, match=r"row 7: .*no chat template"):
        as_chat("w1", tokenizer_without_bos, "row 7")
