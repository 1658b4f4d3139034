"""Thinking models: the tags around their thoughts, and where an answer begins.

All is found by rendering the chat template, and in what it and the tokenizer hold; never by a model's name.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lrt.errors import InvalidValue
from lrt.models.chat_template import ChatNotRendered, ChatTemplate
from lrt.models.prompts import render_chat

QUESTION, THOUGHT, ANSWER = "Which one?", "My thought.", "My answer."
REASONING = ("reasoning_content", "thinking", "reasoning")  # names under which templates take a thought
NAME = re.compile(r"think|thought|reason|reflect|ponder|scratchpad|analysis|inner_", re.IGNORECASE)
OFF = (False, 0, "none", "off", "no", "false", "disabled", "/no_think")  # as templates take it
ANY = "anyword"  # a value that no template treats in a way of its own
MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|◁[^◁▷\s]+▷")
_BEGUN = re.compile(r"(?:<[^<>\s]*|\[[^\[\]\s]*|◁[^◁▷\s]*)$")  # a mark without its end
_ENDED = re.compile(r"^[^<>\[\]◁▷\s]*[>\]▷]")  # a mark without its start
_SIDES = (("start", "end"), ("begin", "end"), ("open", "close"), ("prefix", "suffix"))


class ThoughtBeforeAnswer(InvalidValue):
    """The model would think where an answer is to be; the message says how to turn that off."""


@dataclass(frozen=True)
class ThoughtTags:
    """What stands before and after a thought, as `<think>` and `</think>`."""

    opening: str
    closing: str


@dataclass(frozen=True)
class AnswerStart:
    """How the text of a request goes on to where an answer stands.

    removed  End of the request's text that opens a thought, which a given answer does not have.
    added    What the template writes before a given answer, an empty thought with some.
    """

    removed: str = ""
    added: str = ""

    def after(self, request: str) -> str:
        """The text up to the answer."""
        return request.removesuffix(self.removed) + self.added


def thought_tags(template: ChatTemplate) -> tuple[ThoughtTags, ...]:
    """The tags of thoughts that a template, or its tokenizer, knows; most have none."""
    tags: list[ThoughtTags] = []
    if template.chat_template is not None:
        # a template that cannot render an exchange has no tags to show
        with contextlib.suppress(ChatNotRendered):
            tags += [*_of_a_given_thought(template), *_of_an_opened_thought(template)]
    return tuple(dict.fromkeys([*tags, *_by_name(template)]))


def answer_start(template: ChatTemplate, system: str = "") -> AnswerStart:
    """How requests go on to where the template puts a given answer. Raises ChatNotRendered."""
    request = render_chat(template, QUESTION, system=system)
    before, answer_there, _ = render_chat(template, QUESTION, ANSWER, system).rpartition(ANSWER)
    if not answer_there:
        return AnswerStart()
    if before.startswith(request):
        return AnswerStart(added=before.removeprefix(request))
    common, tags = _common(request, before), thought_tags(template)
    more, rest = request.removeprefix(common), before.removeprefix(common)
    if _is_open(more, tags):
        return AnswerStart(more, rest)
    closed = [each for each in tags if each.closing in more]
    if QUESTION in more or not closed or any(each.closing in rest for each in closed):
        return AnswerStart()
    # an empty thought of the request's, which is not written before a given answer
    return AnswerStart(added=rest if rest.strip() else "")


def check_answer_start(template: ChatTemplate, system: str = "") -> None:
    """Raise ThoughtBeforeAnswer where the model would think at an answer's start, or is thinking already."""
    start = answer_start(template, system)
    if not start.removed and not thinks(template, system, start.added):
        return
    raise ThoughtBeforeAnswer(
        "the model thinks before it answers, so the logits after a prompt are not those of an answer. "
        f"{how_to_turn_off(template, system)}, take behaviours that are scored by generated text "
        "(`formats=[open]`, or refusal without `_log_odds`), or use another model"
    )


def check_thoughts_known(template: ChatTemplate, system: str = "") -> None:
    """Raise ThoughtBeforeAnswer where the model would think and its thoughts have no tags."""
    if not thought_tags(template) and thinks(template, system):
        raise ThoughtBeforeAnswer(
            "the model thinks before it answers, and its thoughts have no tags by which they could "
            f"be taken out of its texts. {how_to_turn_off(template, system)}, or use another model"
        )


def how_to_turn_off(template: ChatTemplate, system: str = "") -> str:
    """A setting that turns thinking off, in words; one that the template shows to do so."""
    for name in _switches(template):
        for value in OFF:
            with contextlib.suppress(ChatNotRendered):
                if not thinks(_set(template, name, value), system):
                    setting = f"{{{name}: {json.dumps(value)}}}"
                    return f"Turn thoughts off, for example by pair.template_kwargs={setting}"
    return "Its chat template has no argument that turns thoughts off"


def thinks(template: ChatTemplate, system: str = "", added: str = "") -> bool:
    """Whether the model would think at the end of a request, or of what is added to it."""
    tags, request = thought_tags(template), render_chat(template, QUESTION, system=system)
    turn = request.removeprefix(_unopened(template, system, request)) + added
    if _is_open(turn, tags):
        return True
    if any(each.closing in turn for each in tags):
        return False
    if _asks(request, tags) or _is_on(template, system, request) or _can_close(template, system, tags):
        return True
    return _keeps_no_thoughts(template, tags) and not _is_off(template, system, request, tags)


def _unopened(template: ChatTemplate, system: str, request: str) -> str:
    """The part of a request before the model's turn."""
    messages = [{"role": "system", "content": system}] * bool(system) + [
        {"role": "user", "content": QUESTION}
    ]
    try:
        return _common(template.render(messages, opened=False), request)
    except ChatNotRendered:  # no role of the system
        return request[: request.rindex(QUESTION) + len(QUESTION)]


def _is_open(text: str, tags: tuple[ThoughtTags, ...]) -> bool:
    """Whether a thought begins in a text and does not end; some tags can be closed in several ways."""
    for opening in {each.opening for each in tags if each.opening in text}:
        rest = text.rpartition(opening)[2]
        if not any(each.closing in rest for each in tags if each.opening == opening):
            return True
    return False


def _asks(request: str, tags: tuple[ThoughtTags, ...]) -> bool:
    return any(mark in request for each in tags for mark in (each.opening, each.closing))


def _switches(template: ChatTemplate) -> list[str]:
    """The template's arguments whose name speaks of thoughts."""
    return [name for name in template.settable if NAME.search(name)]


def _set(template: ChatTemplate, name: str, value: Any) -> ChatTemplate:
    return replace(template, arguments={**template.arguments, name: value})


def _unset(template: ChatTemplate, name: str) -> ChatTemplate:
    return replace(template, arguments={k: v for k, v in template.arguments.items() if k != name})


def _asked(template: ChatTemplate, system: str) -> str | None:
    """The request; None where the template refuses its arguments."""
    try:
        return render_chat(template, QUESTION, system=system)
    except ChatNotRendered:
        return None


def _means_off(value: Any) -> bool:
    return not value or str(value).lower() in OFF


def _is_on(template: ChatTemplate, system: str, request: str) -> bool:
    """Whether an argument turns thinking on, by itself or by the user's value."""
    for name in _switches(template):
        off = _asked(_set(template, name, False), system)
        if request not in (off, None) and request == _asked(_set(template, name, True), system) != off:
            return True
        if not _means_off(template.arguments.get(name)) and request != _asked(_unset(template, name), system):
            return True
    return False


def _can_close(template: ChatTemplate, system: str, tags: tuple[ThoughtTags, ...]) -> bool:
    """Whether an argument would write a closed thought: without it, the model writes one."""
    for name in _switches(template):
        for value in OFF:
            other = _set(template, name, value)
            request = _asked(other, system)
            if request is None:
                continue
            turn = request.removeprefix(_unopened(other, system, request))
            if any(each.closing in turn for each in tags) and not _is_open(turn, tags):
                return True
    return False


def _is_off(template: ChatTemplate, system: str, request: str, tags: tuple[ThoughtTags, ...]) -> bool:
    """Whether the request shows that an argument turns thinking off.

    It is the one without thinking, where the one with it asks for thoughts by their tags; or the user's value
    changes it otherwise than by being written, as any word would be.
    """
    for name in _switches(template):
        on = _asked(_set(template, name, True), system)
        if on and _asks(on, tags) and request == _asked(_set(template, name, False), system):
            return True
        if name not in template.arguments or not _means_off(value := template.arguments[name]):
            continue
        if request != _asked(_unset(template, name), system):
            written = _asked(_set(template, name, ANY), system)
            if written is None or _plain(request) != _plain(written).replace(ANY, str(value).lower()):
                return True
    return False


def _plain(text: str) -> str:
    """A text without the forms in which templates write a value."""
    return text.lower().replace('"', "")


def _keeps_no_thoughts(template: ChatTemplate, tags: tuple[ThoughtTags, ...]) -> bool:
    """Whether the template treats thoughts in an answer as such: takes them out, or writes them by itself."""
    if any(_of_a_given_thought(template)):
        return True
    return any(
        THOUGHT not in render_chat(template, QUESTION, f"{each.opening}{THOUGHT}{each.closing}{ANSWER}")
        for each in tags
    )


def _of_a_given_thought(template: ChatTemplate) -> Iterator[ThoughtTags]:
    """Whatever the template writes around a thought that comes with an answer."""
    question = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER} | dict.fromkeys(REASONING, THOUGHT)
    head, thought_there, rest = template.render([question, answer]).rpartition(ANSWER)[0].partition(THOUGHT)
    if not thought_there or not rest.strip():
        return
    request = template.render([question])
    opening = head.removeprefix(_common(head, request)).strip()
    if not opening and (marks := MARK.findall(head)):
        opening = marks[-1]
    # of what stands between a thought and an answer, what stands before an answer without a thought, too
    exchange = [question, {"role": "assistant", "content": ANSWER}]
    added = template.render(exchange).rpartition(ANSWER)[0].removeprefix(request)
    closing = _common_end(rest.rstrip(), added.rstrip()).lstrip()
    marks = MARK.findall(closing)
    if not marks or not closing.startswith(marks[0]):
        closing = rest.strip()
    if opening:
        yield ThoughtTags(opening, closing)


def _of_an_opened_thought(template: ChatTemplate) -> Iterator[ThoughtTags]:
    """What a request ends with and a given answer does not have, whatever its name, where a tag closes it."""
    request = render_chat(template, QUESTION)
    before = render_chat(template, QUESTION, ANSWER).rpartition(ANSWER)[0]
    opened = request.removeprefix(_common(request, before))
    for mark in MARK.findall(opened):
        for closing in _partners(mark):
            if closing in _material(template) and closing not in opened:
                yield ThoughtTags(mark, closing)
                yield ThoughtTags(
                    opened[opened.index(mark) :].strip(), closing
                )  # with the words it begins with


def _by_name(template: ChatTemplate) -> Iterator[ThoughtTags]:
    """Tags in the template's text and the tokenizer's vocabulary whose name speaks of thoughts."""
    material = _material(template)
    for mark in sorted(filter(NAME.search, set(MARK.findall(material)))):
        if mark[1] == "/" or mark[1:3] == "|/":
            yield ThoughtTags(mark.replace("/", "", 1), mark)
        else:
            yield from (ThoughtTags(mark, closing) for closing in _partners(mark) if closing in material)


def _material(template: ChatTemplate) -> str:
    return "\0".join([template.chat_template or "", *template.tokens])


def _partners(opening: str) -> Iterator[str]:
    """How the closing tag of an opening one may be written."""
    yield f"{opening[0]}/{opening[1:]}"
    if opening[1] == "|":
        yield f"{opening[:2]}/{opening[2:]}"
    for first, last in _SIDES:
        for one, other in ((first, last), (first.upper(), last.upper())):
            if one in opening:
                yield opening.replace(one, other)


def _common(one: str, other: str) -> str:
    """The beginning that two texts share, without a mark that ends differently in them."""
    shared = _shared(one, other)
    return shared if shared in (one, other) else _BEGUN.sub("", shared)


def _common_end(one: str, other: str) -> str:
    """The end that two texts share, without a mark that begins differently in them."""
    return _ENDED.sub("", _shared(one[::-1], other[::-1])[::-1])


def _shared(one: str, other: str) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))]
