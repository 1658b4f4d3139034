"""Thinking models: the tags around their thoughts, and where an answer begins.

All is found by rendering the chat template, and in what it and the tokenizer hold; never by a model's name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lrt.errors import InvalidValue
from lrt.models.chat_template import ChatNotRendered, ChatTemplate
from lrt.models.prompts import render_chat

QUESTION, THOUGHT, ANSWER = "Which one?", "My thought.", "My answer."
REASONING = ("reasoning_content", "thinking", "reasoning")  # names under which templates take a thought
NAME = re.compile(r"think|thought|reason|reflect|ponder|scratchpad|analysis|inner_", re.IGNORECASE)
OFF = ("off", "none", "no", "false", "disabled", "/no_think")
MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|◁[^◁▷\s]+▷")
_SIDES = (("start", "end"), ("begin", "end"), ("open", "close"), ("prefix", "suffix"))


class ThoughtBeforeAnswer(InvalidValue):
    """The model would think where an answer is to be read; the message says how to turn that off."""


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
    found: list[ThoughtTags] = []
    if template.chat_template is not None:
        # a template that cannot render an exchange has no tags to show
        with contextlib.suppress(ChatNotRendered):
            found += [*_of_a_given_thought(template), *_of_an_opened_thought(template)]
    return tuple(dict.fromkeys([*found, *_by_name(template)]))


def answer_start(template: ChatTemplate, system: str = "") -> AnswerStart:
    """How requests go on to where the template puts a given answer. Raises ChatNotRendered."""
    request = render_chat(template, QUESTION, system=system)
    before, found, _ = render_chat(template, QUESTION, ANSWER, system).rpartition(ANSWER)
    if not found:
        return AnswerStart()
    if before.startswith(request):
        return AnswerStart(added=before.removeprefix(request))
    common = _common(request, before)
    more = request.removeprefix(common)
    if any(_is_open(more, tags) for tags in thought_tags(template)):
        return AnswerStart(more, before.removeprefix(common))
    return AnswerStart()


def check_answer_start(template: ChatTemplate, system: str = "") -> None:
    """Raise ThoughtBeforeAnswer where the model would think at an answer's start, or is thinking already."""
    start = answer_start(template, system)
    if not start.removed and not thinks(template, system, start.added):
        return
    raise ThoughtBeforeAnswer(
        "the model thinks before it answers, so the logits after a prompt are not those of an answer. "
        f"{how_to_turn_off(template)}, take behaviours that are scored by generated text (`formats=[open]`, "
        "or refusal without `_log_odds`), or use another model"
    )


def how_to_turn_off(template: ChatTemplate) -> str:
    """The setting that turns thinking off, in words."""
    names = [name for name in template.reads if NAME.search(name)]
    if not names:
        return "Its chat template has no argument that turns thoughts off"
    return f"Turn thoughts off, for example by pair.template_kwargs={{{names[0]}: false}}"


def thinks(template: ChatTemplate, system: str = "", added: str = "") -> bool:
    """Whether the model would think at the end of a request, or of what is added to it."""
    tags, request = thought_tags(template), render_chat(template, QUESTION, system=system)
    turn = request.removeprefix(_unopened(template, system, request)) + added
    if any(_is_open(turn, each) for each in tags):
        return True
    if any(each.closing in turn for each in tags):
        return False
    asked = any(mark in request for each in tags for mark in (each.opening, each.closing))
    return asked or (_keeps_no_thoughts(template, tags) and not _is_off(template))


def _unopened(template: ChatTemplate, system: str, request: str) -> str:
    """The part of a request before the model's turn."""
    messages = [{"role": "system", "content": system}] * bool(system) + [
        {"role": "user", "content": QUESTION}
    ]
    try:
        return _common(template.render(messages, opened=False), request)
    except ChatNotRendered:  # no role of the system
        return request[: request.rindex(QUESTION) + len(QUESTION)]


def _is_open(text: str, tags: ThoughtTags) -> bool:
    return tags.opening in text and tags.closing not in text.rpartition(tags.opening)[2]


def _is_off(template: ChatTemplate) -> bool:
    """Whether an argument of the user's turns thinking off."""
    return any(
        NAME.search(name) and (not value or str(value).lower() in OFF)
        for name, value in template.arguments.items()
    )


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
    asked = {"role": "user", "content": QUESTION}
    given = {"role": "assistant", "content": ANSWER} | dict.fromkeys(REASONING, THOUGHT)
    head, found, rest = template.render([asked, given]).rpartition(ANSWER)[0].partition(THOUGHT)
    if not found or not rest.strip():
        return
    request = template.render([asked])
    opening = head.removeprefix(_common(head, request)).strip()
    if not opening and (marks := MARK.findall(head)):
        opening = marks[-1]
    # of what stands between a thought and an answer, what stands before an answer without a thought, too
    asked_and_answered = [asked, {"role": "assistant", "content": ANSWER}]
    added = template.render(asked_and_answered).rpartition(ANSWER)[0].removeprefix(request)
    closing = _common(rest.rstrip()[::-1], added.rstrip()[::-1])[::-1].lstrip()
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
    """The beginning that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))]
