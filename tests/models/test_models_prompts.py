from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lrt.errors import InvalidValue
from lrt.models.chat_template import ChatNotRendered
from lrt.models.prompts import encode, render_chat, render_messages


class Bytes:
    """One id a byte; `bos_token` is id 0, put in front where special tokens are added."""

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
        with pytest.raises(InvalidValue):
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
    question = render_chat(family_tokenizer, "Hi")
    answered = render_chat(family_tokenizer, "Hi", "Hello.")
    assert question == "<|begin|><|user|>Hi<|assistant|>"
    assert answered == question + "Hello.<|end|>"


def test_without_a_system_role_its_words_go_to_the_user(family_tokenizer: Any) -> None:
    text = render_chat(family_tokenizer, "Hi", "Hello.", system="Be brief.")
    assert text == "<|begin|><|user|>Be brief.\n\nHi<|assistant|>Hello.<|end|>"


# As real families write theirs: BOS or not, a system role, one that is refused, one that is left out.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }} {{ m.content | trim }}</turn>{% endfor %}"
    "{% if add_generation_prompt %}<turn>model {% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }} {{ m.content | trim }}</turn>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
QWEN = "{% if messages[0].role != 'system' %}<turn>system Be good.</turn>{% endif %}" + LLAMA.removeprefix(
    "{{ bos_token }}"
)
DEAF = (
    "{% for m in messages %}{% if m.role == 'user' %}<turn>user {{ m.content }}</turn>"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ASKED = [{"role": "user", "content": "hi"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "ho"}]
BRIEF = {"role": "system", "content": " Be brief.\n"}


def tokenizer(template: str | None, adds_bos: bool = True, **special: str) -> Any:
    """Words and signs; its own BOS is written in front of every text, as Gemma's and Llama's are."""
    words = ["<s>", "</s>", "<unk>", "<turn>", "</turn>", "hi", "ho", "Be", "brief", "."]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>"} | special
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", additional_special_tokens=["<turn>", "</turn>"], **special
    )
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "system", "user"),
    [
        (GEMMA, "", "<s><turn>user Be brief.\n\n\nhi</turn><turn>model "),
        (LLAMA, "<s><turn>system Be brief.</turn>", "<turn>user hi</turn><turn>assistant "),
        (QWEN, "<turn>system Be brief.</turn>", "<turn>user hi</turn><turn>assistant "),
        (DEAF, "", "<turn>user  Be brief.\n\n\nhi</turn>"),
    ],
)
def test_the_systems_words_are_never_lost(template: str, system: str, user: str) -> None:
    made = tokenizer(template)
    assert render_messages(made, [BRIEF, *ASKED]) == system + user
    assert render_chat(made, "hi", system=BRIEF["content"]) == system + user
    # and where there are none, the template has its own way
    assert ("Be good." in render_messages(made, ASKED)) == (template is QWEN)


@pytest.mark.parametrize("template", [GEMMA, LLAMA, QWEN, DEAF])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("messages", [ASKED, ANSWERED, [BRIEF, *ANSWERED, *ASKED]])
def test_a_chat_begins_once_whoever_writes_the_beginning(
    template: str, adds_bos: bool, messages: list[dict[str, str]]
) -> None:
    made = tokenizer(template, adds_bos)
    text = render_messages(made, messages)
    (ids,) = encode(made, [text])
    writes = template in (GEMMA, LLAMA)
    assert ids.count(0) == (writes or adds_bos)
    assert (ids[0] == 0) == (writes or adds_bos)
    # the usual fault is there to be made
    assert made(text)["input_ids"].count(0) == writes + adds_bos


def test_the_answer_is_opened_where_the_user_spoke_last() -> None:
    made = tokenizer(LLAMA)
    assert render_messages(made, ASKED).endswith("<turn>assistant ")
    assert render_messages(made, ANSWERED).endswith("<turn>assistant ho</turn>")
    longer = render_messages(made, [*ANSWERED, *ASKED])
    assert longer == render_messages(made, ANSWERED) + "<turn>user hi</turn><turn>assistant "


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (None, ASKED),
        (LLAMA, []),
        (GEMMA, [*ASKED, *ASKED]),
        (GEMMA, [BRIEF, *ASKED, *ASKED]),
        (GEMMA, [BRIEF]),
        (DEAF, [*ANSWERED, BRIEF, *ASKED]),
    ],
)
def test_a_conversation_that_the_template_cannot_render_is_refused(
    template: str | None, messages: list[dict[str, str]]
) -> None:
    with pytest.raises(ChatNotRendered):
        render_messages(tokenizer(template), messages)
