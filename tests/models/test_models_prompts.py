from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.models.prompts import encode, render_chat


class Bytes:
    """One id a byte; `bos_token` is id 0, put in front where special tokens are asked for."""

    def __init__(self, bos_token: str | None = "<s>") -> None:
        self.bos_token = bos_token

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        bos = self.bos_token
        begun = bool(bos) and text.startswith(bos or "")
        ids = [0] * bool(begun) + [1 + b for b in text.removeprefix(bos or "").encode()]
        return {"input_ids": [0, *ids] if add_special_tokens and bos else ids}


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=20), bos=st.sampled_from(["<s>", None]), begun=st.booleans())
def test_exactly_one_beginning(text: str, bos: str | None, begun: bool) -> None:
    given_text = (bos or "") * begun + text
    if not given_text and bos is None:
        with pytest.raises(ValueError, match="has no tokens"):
            encode(Bytes(bos), [given_text])
        return
    (ids,) = encode(Bytes(bos), [given_text])
    assert ids.count(0) == (bos is not None)
    assert bytes(i - 1 for i in ids if i).decode() == text


def test_a_rendered_chat_gets_no_second_beginning(family_tokenizer: Any) -> None:
    text = render_chat(family_tokenizer, "How do I visit the baker?")
    assert text.startswith(family_tokenizer.bos_token)
    (ids,) = encode(family_tokenizer, [text])
    assert ids.count(family_tokenizer.bos_token_id) == 1
    # the usual fault, so that this test can fail
    assert family_tokenizer(text)["input_ids"].count(family_tokenizer.bos_token_id) == 2
    (plain,) = encode(family_tokenizer, ["Hello"])
    assert plain[0] == family_tokenizer.bos_token_id


def test_an_exchange_and_an_open_question(family_tokenizer: Any) -> None:
    asked = render_chat(family_tokenizer, "Hi")
    answered = render_chat(family_tokenizer, "Hi", "Hello.")
    assert asked == "<|begin|><|user|>Hi<|assistant|>"
    assert answered == asked + "Hello.<|end|>"


def test_without_a_system_role_its_words_go_to_the_user(family_tokenizer: Any) -> None:
    text = render_chat(family_tokenizer, "Hi", "Hello.", system="Be brief.")
    assert text == "<|begin|><|user|>Be brief.\n\nHi<|assistant|>Hello.<|end|>"


class Template:
    def __init__(self, chat_template: str | None, fails: bool = False) -> None:
        self.chat_template, self.fails = chat_template, fails

    def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> str:
        if self.fails:
            raise RuntimeError("broken template")
        return "|".join(f"{turn['role']}:{turn['content']}" for turn in turns)


def test_a_template_with_a_system_role_is_used_as_it_is() -> None:
    assert render_chat(Template("x"), "Hi", system="Be brief.") == "system:Be brief.|user:Hi"


def test_no_template_and_a_broken_one() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        render_chat(Template(None), "Hi")
    with pytest.raises(RuntimeError, match="broken template"):
        render_chat(Template("x", fails=True), "Hi")
    with pytest.raises(RuntimeError, match="broken template"):
        render_chat(Template("x", fails=True), "Hi", system="Be brief.")
