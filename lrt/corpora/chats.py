"""Conversations in the shapes in which they are published, as turns of `system`, `user` and `assistant`.

A single request; a list of `{"role", "content"}` turns (LMSYS-Chat-1M's `conversation`, and most newer
sets); a list of `{"from", "value"}` turns (ShareGPT); a request with its answer in another field, and
perhaps a passage that it is about (Dolly).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrt.corpora.errors import ChatRefused, CorpusError
from lrt.models.prompts import ChatNotRendered, render_messages

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
SHAPES = (
    'a request (text), a list of {"role", "content"} turns, or a list of {"from", "value"} turns; an answer '
    "in another field is named by `answer_field`"
)


def conversation(
    request: Any, answer: Any = None, passage: Any = None, place: str = "text"
) -> list[dict[str, str]]:
    """The turns of a conversation given in any of the shapes above.

    request  Text, or a list of turns.
    answer   The answer to a request that is text.
    passage  What that request is about: put after it, unless it is empty.
    place    Where it comes from, for messages.

    Raises CorpusError, naming `place` and what was found there, for any other shape.
    """
    if isinstance(request, str):
        words = [request]
        if passage is not None:
            words += [_text(passage, f"{place}: the passage")] * bool(str(passage).strip())
        turns = [{"role": "user", "content": "\n\n".join(words)}]
        if answer is not None:
            turns.append({"role": "assistant", "content": _text(answer, f"{place}: the answer")})
        return turns
    if answer is not None or passage is not None:
        raise CorpusError(
            f"{place}: an answer or a passage goes with a request that is text, this is a "
            f"{type(request).__name__}; take `answer_field` and `context_field` away"
        )
    if not isinstance(request, Sequence) or not request:
        told = "an empty list" if isinstance(request, Sequence) else f"a {type(request).__name__}"
        raise CorpusError(f"{place}: {told} is no conversation; it is {SHAPES}")
    return [_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(request, start=1)]


def as_chat(
    request: Any, tokenizer: Any, place: str = "text", answer: Any = None, passage: Any = None
) -> str:
    """A conversation (see `conversation`) in the tokenizer's chat template: text, not ids.

    Where the user speaks last, the assistant's turn is opened. Raises CorpusError, naming `place`, for
    what is no conversation and a tokenizer without a template, and ChatRefused for what the template
    refuses.
    """
    turns = conversation(request, answer, passage, place)
    try:
        return render_messages(tokenizer, turns)
    except ChatNotRendered as error:
        kind = ChatRefused if getattr(tokenizer, "chat_template", None) else CorpusError
        raise kind(f"{place}: {error}") from error


def _turn(turn: Any, place: str) -> dict[str, str]:
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(turn, Mapping) and role in turn and content in turn:
            name = turn[role]
            if not isinstance(name, str) or name.lower() not in ROLES:
                raise CorpusError(f"{place} is spoken by {name!r}; known are {', '.join(ROLES)}")
            return {"role": ROLES[name.lower()], "content": _text(turn[content], place)}
    found = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else f"a {type(turn).__name__}"
    raise CorpusError(f"{place} is {found}; a conversation is {SHAPES}")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"{place} is a {type(value).__name__}, not text")
    return value
