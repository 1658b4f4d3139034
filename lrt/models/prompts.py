"""Texts to token ids, each with one beginning; conversations to texts by the model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrt.errors import InvalidValue
from lrt.models.chat_template import ChatNotRendered, ChatTemplate
from lrt.models.special_tokens import leading_ids


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, which may hold special tokens (a rendered chat).

    What the tokenizer puts before every text (a BOS, with most) is added once: a text that already starts
    with it gets no second one. Rendering a chat template to text and tokenising the result would give two.
    Nothing is added after a text. Raises InvalidValue for a text without tokens.
    """
    leading = list(leading_ids(tokenizer))
    rows = []
    for text in texts:
        ids = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        if ids[: len(leading)] != leading:
            ids = leading + ids
        if not ids:
            raise InvalidValue(f"the text {text!r} has no tokens; a prompt needs at least one")
        rows.append(ids)
    return rows


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """`encode` for texts that a model goes on with, or whose last state is read.

    Raises InvalidValue for a text that ends with the EOS, too: behind it the model starts another text.
    """
    rows = encode(tokenizer, texts)
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            raise InvalidValue(
                f"the prompt {text[-60:]!r} ends with {tokenizer.eos_token!r}, the end of a text, where the "
                "model cannot go on; remove it"
            )
    return rows


def render_chat(tokenizer: Any, user: str, assistant: str | None = None, system: str = "") -> str:
    """One exchange in the model's chat template, as text for `encode`; see `render_messages`.

    Without `assistant` the text ends where the model would start to answer.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    if assistant is not None:
        messages.append({"role": "assistant", "content": assistant})
    return render_messages(tokenizer, messages)


def render_messages(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation (`{"role": ..., "content": ...}` each) in the model's chat template, as text.

    tokenizer  A tokenizer, or its ChatTemplate with arguments.

    If the last turn is the user's, the text ends where the model would start to answer. Some templates refuse
    the system role or drop it silently; then the system message is put before the first user message. The
    text may or may not start with the tokenizer's BOS: `encode` and `lrt.corpora.pack` make sure of one.

    Raises ChatNotRendered for a tokenizer without a template, an empty conversation, and a conversation that
    the template refuses (with most, turns that do not alternate).
    """
    template = ChatTemplate.of(tokenizer)
    system = [message["content"] for message in messages if message["role"] == "system"]
    try:
        text = template.render(messages)
    except ChatNotRendered:
        if not system or template.chat_template is None:
            raise
    else:
        # templates strip white space from messages
        if all(words.strip() in text for words in system):
            return text
    return template.render(_system_in_user(messages))


def _system_in_user(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The conversation with its leading system messages put before the first user message."""
    turns = list(messages)
    system = []
    while turns and turns[0]["role"] == "system":
        system.append(turns.pop(0)["content"])
    if not system or not turns or turns[0]["role"] != "user":
        raise ChatNotRendered(
            "the chat template takes no system role, so system messages must stand at the start, before a "
            "user "
            "message that they can be added to; got " + " ".join(message["role"] for message in messages)
        )
    content = "\n\n".join([*system, turns[0]["content"]])
    return [{"role": "user", "content": content}, *turns[1:]]
