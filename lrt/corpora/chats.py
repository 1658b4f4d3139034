"""Conversations as published, normalised to turns of `system`, `user` and `assistant`.

Accepted shapes:

- a request (text), perhaps with its answer and a passage in other fields (Dolly)
- a list of `{"role", "content"}` turns (LMSYS-Chat-1M and most newer data sets)
- a list of `{"from", "value"}` turns (ShareGPT)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrt.corpora.errors import ChatRefused, CorpusError
from lrt.models.chat_template import ChatNotRendered
from lrt.models.prompts import render_messages

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
    'a request (text), a list of {"role", "content"} turns, or a list of {"from", "value"} turns; '
    "`answer_field` names a field with the answer"
)


def conversation(
    request: Any, answer: Any = None, passage: Any = None, place: str = "text"
) -> list[dict[str, str]]:
    """The turns of a conversation in any of the accepted shapes, as `{"role", "content"}`.

    request  Text, or a list of turns.
    answer   The answer to a request that is text.
    passage  What that request is about: appended to it, unless empty.
    place    Where the conversation comes from, for error messages.

    Raises CorpusError for any other shape, naming `place`.
    """
    if isinstance(request, str):
        content = [request]
        if passage is not None:
            content += [_text(passage, f"{place}: the passage")] * bool(str(passage).strip())
        turns = [{"role": "user", "content": "\n\n".join(content)}]
        if answer is not None:
            turns.append({"role": "assistant", "content": _text(answer, f"{place}: the answer")})
        return turns
    if answer is not None or passage is not None:
        raise CorpusError(
            f"{place}: an answer or a passage belongs to a request that is text, but the request is a "
            f"{type(request).__name__}; remove `answer_field` and `context_field`"
        )
    if not isinstance(request, Sequence) or not request:
        kind = "an empty list" if isinstance(request, Sequence) else f"a {type(request).__name__}"
        raise CorpusError(f"{place} is {kind}; a conversation must be {SHAPES}")
    return [_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(request, start=1)]


def as_chat(
    request: Any, tokenizer: Any, place: str = "text", answer: Any = None, passage: Any = None
) -> str:
    """Render a conversation (see `conversation`) in the tokenizer's chat template, as text.

    If the user speaks last, the assistant's turn is opened. Raises CorpusError for an invalid conversation
    and for a tokenizer without a template, and ChatRefused for a conversation that the template rejects. Both
    name `place`.
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
                raise CorpusError(f"{place} has the role {name!r}; known roles are {', '.join(ROLES)}")
            return {"role": ROLES[name.lower()], "content": _text(turn[content], place)}
    if isinstance(turn, Mapping):
        kind = f"an object with the keys {', '.join(map(str, turn))}"
    else:
        kind = f"a {type(turn).__name__}"
    raise CorpusError(f"{place} is {kind}; a conversation must be {SHAPES}")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"{place} is a {type(value).__name__}, not text")
    return value
