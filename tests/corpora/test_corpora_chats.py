from typing import Any

import pytest

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
        # turns of some data sets have more fields
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "a int"),
        (([],), "an empty list"),
        (({"role": "user", "content": "u"},), "a dict"),
        ((["u", "a"],), "turn 1 is a str"),
        (([TURNS[1], {"speaker": "b", "text": "x"}],), "turn 2.*speaker, text"),
        (([{"role": "tool", "content": "x"}],), "turn 1.*'tool'"),
        (([{"role": None, "content": "x"}],), "turn 1.*None"),
        (([{"role": "user", "content": [{"type": "image"}]}],), "turn 1 is a list"),
        (("u", 3), "the answer is a int"),
        (("u", "a", ["p"]), "the passage is a list"),
        ((TURNS, "a"), "answer_field"),
    ],
)
def test_any_other_shape_is_named_with_its_place(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CorpusError, match=f"row 1.*{message}"):
        conversation(*arguments, place="row 1")


def test_a_chat_is_written_in_the_template(tokenizer: Any, tokenizer_without_bos: Any) -> None:
    assert as_chat("w1", tokenizer) == "<bos>[user] w1 [assistant]"
    assert as_chat("w1", tokenizer, answer="w2", passage="w3") == "<bos>[user] w1\n\nw3 [assistant] w2 "
    # this template takes no system role
    turns = [{"role": "system", "content": "w9"}, {"role": "user", "content": "w1"}]
    assert as_chat(turns, tokenizer) == "<bos>[user] w9\n\nw1 [assistant]"
    with pytest.raises(ChatRefused, match="row 7"):
        as_chat([{"role": "system", "content": "w1"}], tokenizer, "row 7")
    with pytest.raises(CorpusError, match="row 7"):
        as_chat("w1", tokenizer_without_bos, "row 7")
