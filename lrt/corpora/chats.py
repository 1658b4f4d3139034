"""Conversations as published, normalised to turns of `system`, `user` and `assistant`.

Accepted shapes:

- a request (text), perhaps with its answer and a passage in other fields (Dolly)
- a list of `{"role", "content"}` turns (LMSYS-Chat-1M and most newer data sets)
- a list of `{"from", "value"}` turns (ShareGPT)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrt.corpora.documents import Document
from lrt.corpora.errors import ChatRefused, CorpusError
from lrt.models.chat_template import ChatNotRendered, ChatTemplate
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


@dataclass(frozen=True)
class TemplatePair:
    """The templates of two models, each of which reads a conversation in its own."""

    source: ChatTemplate
    target: ChatTemplate


def chat_document(
    request: Any,
    tokenizer: Any,
    place: str = "text",
    answer: Any = None,
    passage: Any = None,
    *,
    part: str = "",
) -> Document:
    """A conversation as a document of a part of the mixture; raises as `as_chat`.

    tokenizer  Of the models, or their `TemplatePair`.
    """
    if not isinstance(tokenizer, TemplatePair):
        return Document(as_chat(request, tokenizer, place, answer, passage), part)
    turns = conversation(request, answer, passage, place)
    contents = [turn["content"].strip() for turn in turns]  # templates may strip it themselves
    templates = tokenizer.source, tokenizer.target
    text, target_text = (as_chat(turns, template, place) for template in templates)
    if text == target_text:
        return Document(text, part)
    places = (
        _places(text, turns, template) for text, template in zip((text, target_text), templates, strict=True)
    )
    shared = [
        (at, other, len(content))
        for content, at, other in zip(contents, *places, strict=True)
        if content and at is not None and other is not None
    ]
    return Document(text, part, target_text=target_text, shared=tuple(shared))


def _places(text: str, turns: Sequence[Mapping[str, str]], template: ChatTemplate) -> list[int | None]:
    """Where the content of each turn, without white space at its ends, begins in the rendered conversation.

    None where a template writes something else. Found by rendering marks in the place of the contents: a
    short content may well be in the template's own text.
    """
    marks = [f"\ue000{number}\ue000" for number in range(len(turns))]
    marked = [{**turn, "content": mark} for turn, mark in zip(turns, marks, strict=True)]
    try:
        remaining = render_messages(template, marked)
    except ChatNotRendered:
        return [None] * len(turns)
    places: list[int | None] = []
    at = 0
    for turn, mark in zip(turns, marks, strict=True):
        before, found, remaining = remaining.partition(mark)
        content = turn["content"]
        following = remaining.partition("\ue000")[0]
        written = [
            each
            for each in (content, content.strip(), content.lstrip(), content.rstrip())
            if found and text.startswith(before + each + following, at)
        ]
        if not written:
            return [*places, *[None] * (len(turns) - len(places))]
        at += len(before)
        places.append(at + len(written[0]) - len(written[0].lstrip()))
        at += len(written[0])
    return places


def document_of_two(
    text: str, target_text: str, content: str, part: str = "", duplicate_group: str = ""
) -> Document:
    """A document that the two models read as different texts, with the content that both hold once."""
    if text == target_text:
        return Document(text, part, duplicate_group)
    at, other = text.find(content), target_text.find(content)
    shared = ((at, other, len(content)),) if content and at >= 0 and other >= 0 else ()
    return Document(text, part, duplicate_group, target_text=target_text, shared=shared)


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
