"""Where an answer begins, and which tags stand around a thought: by rendering, in any family's way."""

from typing import Any

import pytest
from models.chat_templates import (
    CHANNELS,
    DISTILL,
    EFFORT,
    GRANITE,
    LLAMA,
    PONDER,
    QWEN,
    RESPONSE,
    SMOL,
    SWITCH,
    WORDED,
    word_tokenizer,
)

from lrt.evaluation.thoughts import answer_of
from lrt.models.chat_template import ChatTemplate
from lrt.models.prompts import render_chat
from lrt.models.thinking import (
    ThoughtBeforeAnswer,
    ThoughtTags,
    answer_start,
    check_answer_start,
    check_thoughts_known,
    thinks,
    thought_tags,
)

THINK = ThoughtTags("<think>", "</think>")
FINAL = ThoughtTags("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
PREFILLED = DISTILL.replace("<think>\\n", "<think>\\nOkay, so ")
BRACKETS = DISTILL.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")
# a history without thoughts, and a prompt that is told nothing
OLD_DISTILL = DISTILL.replace("<think>\\n", "")
# the closing tag alone turns thinking off
SHORT = DISTILL.replace("<think>\\n", "</think>").replace(
    "'<|Assistant|>' + content", "'<|Assistant|></think>' + content"
)


def of(template: str, tokens: tuple[str, ...] = (), **arguments: Any) -> ChatTemplate:
    return ChatTemplate.of(word_tokenizer(template, special=tokens), arguments)


@pytest.mark.parametrize(
    ("template", "tags"),
    [
        (QWEN, THINK),
        (DISTILL, THINK),
        (PONDER, ThoughtTags("<pondering>", "</pondering>")),
        (DISTILL.replace("think>", "x1>"), ThoughtTags("<x1>", "</x1>")),
        (BRACKETS, ThoughtTags("[THINK]", "[/THINK]")),
        (CHANNELS, FINAL),
        (SMOL, THINK),
        (GRANITE, THINK),
        (PREFILLED, ThoughtTags("<think>\nOkay, so", "</think>")),
    ],
)
def test_tags_are_found_whatever_they_are(template: str, tags: ThoughtTags) -> None:
    assert tags in thought_tags(of(template))


@pytest.mark.parametrize(
    ("tokens", "tags"),
    [
        (("<think>", "</think>"), THINK),
        (("<|START_THINKING|>", "<|END_THINKING|>"), ThoughtTags("<|START_THINKING|>", "<|END_THINKING|>")),
        (("◁think▷", "◁/think▷"), ThoughtTags("◁think▷", "◁/think▷")),
        (("<seed:think>", "</seed:think>"), ThoughtTags("<seed:think>", "</seed:think>")),
        (
            ("<|begin_of_thought|>", "<|end_of_thought|>"),
            ThoughtTags("<|begin_of_thought|>", "<|end_of_thought|>"),
        ),
        (("<|inner_prefix|>", "<|inner_suffix|>"), ThoughtTags("<|inner_prefix|>", "<|inner_suffix|>")),
    ],
)
def test_tags_of_the_vocabulary_count_too(tokens: tuple[str, ...], tags: ThoughtTags) -> None:
    assert thought_tags(of(LLAMA, tokens)) == (tags,)
    assert thought_tags(ChatTemplate(None, tokens=tokens)) == (tags,)


def test_most_models_have_none() -> None:
    assert thought_tags(of(LLAMA)) == thought_tags(ChatTemplate(None)) == ()


@pytest.mark.parametrize(
    ("template", "arguments", "before"),
    [
        (LLAMA, {}, "<|head|>assistant<|/head|>\n\n"),
        (GRANITE, {"thinking": False}, "<|role|>assistant<|/role|>"),
        (GRANITE, {}, "<|role|>assistant<|/role|>"),
        (QWEN, {}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (QWEN, {"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (CHANNELS, {}, "<|start|>assistant<|channel|>final<|message|>"),
        (SMOL, {"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n"),
        (SHORT, {}, "<|Assistant|></think>"),
    ],
)
def test_an_answer_stands_where_the_template_puts_it(
    template: str, arguments: dict[str, Any], before: str
) -> None:
    made = of(template, **arguments)
    check_answer_start(made)
    # a given answer brings an empty thought with some, a generated one does not
    assert thinks(made) == (template in (QWEN, CHANNELS) and not arguments)
    request = render_chat(made, "hi")
    start = answer_start(made)
    assert start.after(request).endswith(before)
    assert render_chat(made, "hi", "ho").startswith(start.after(request) + "ho")


@pytest.mark.parametrize(
    ("template", "arguments", "fix"),
    [
        (DISTILL, {}, "formats"),
        (PONDER, {}, "formats"),
        (BRACKETS, {}, "formats"),
        (PREFILLED, {}, "formats"),
        (OLD_DISTILL, {}, "formats"),
        (SMOL, {}, "enable_thinking: false"),
        (GRANITE, {"thinking": True}, "thinking: false"),
    ],
)
def test_no_answer_is_read_before_or_within_a_thought(
    template: str, arguments: dict[str, Any], fix: str
) -> None:
    made = of(template, **arguments)
    assert thinks(made)
    with pytest.raises(ThoughtBeforeAnswer, match=fix):
        check_answer_start(made)
    # a given answer has a place all the same
    start = answer_start(made)
    assert render_chat(made, "hi", "ho").startswith(start.after(render_chat(made, "hi")) + "ho")


CLOSING_EFFORT = EFFORT.replace(
    "<|assistant|>", "<|assistant|>{% if reasoning_effort == 'none' %}<think></think>{% endif %}"
)
# the switch is a word of the request
NO_THINK = OLD_DISTILL.replace(
    "m.content }}{% elif", "m.content }}{% if not on | default(true) %}/no_think{% endif %}{% elif", 1
).replace("on |", "enable_thinking |")
# thinking has to be turned on, with tags
ON_REQUEST = OLD_DISTILL.replace("{{ bos_token }}", "{% if thinking %}Use <think></think>.{% endif %}")


@pytest.mark.parametrize(
    ("template", "arguments", "fix"),
    [
        (SWITCH, {}, "enable_thinking: false"),
        (SWITCH, {"enable_thinking": True}, "enable_thinking: false"),
        (SWITCH.replace("not enable_thinking", "enable_thinking == 'off'"), {}, 'enable_thinking: "off"'),
        (WORDED, {"thinking": True}, "thinking: false"),
        (WORDED, {"thinking": "yes"}, "thinking: false"),
        (WORDED.replace("if thinking", "if thinking | default(true)"), {}, "thinking: false"),
        (EFFORT, {}, "no argument"),
        (EFFORT, {"reasoning_effort": False}, "no argument"),
        (EFFORT, {"reasoning_effort": "none"}, "no argument"),
        (EFFORT.replace("effort |", "effort | upper |"), {"reasoning_effort": "none"}, "no arg"),
        (EFFORT.replace("('medium')", "('medium', true)"), {"reasoning_effort": None}, "no argument"),
        (CLOSING_EFFORT, {}, 'reasoning_effort: "none"'),
        (CLOSING_EFFORT, {"reasoning_effort": False}, 'reasoning_effort: "none"'),
        (NO_THINK, {}, "enable_thinking: false"),
        (ON_REQUEST, {"thinking": True}, "thinking: false"),
    ],
)
def test_the_advice_is_what_the_template_shows_to_work(
    template: str, arguments: dict[str, Any], fix: str
) -> None:
    made = of(template, ("<think>", "</think>") if "think>" in template else (), **arguments)
    assert thinks(made)
    with pytest.raises(ThoughtBeforeAnswer, match=fix):
        check_answer_start(made)


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (SWITCH, {"enable_thinking": False}),
        (WORDED, {}),
        (WORDED, {"thinking": False}),
        (CLOSING_EFFORT, {"reasoning_effort": "none"}),
        (NO_THINK, {"enable_thinking": False}),
        (ON_REQUEST, {"thinking": False}),
        (RESPONSE, {"reasoning": False}),
    ],
)
def test_thinking_that_is_turned_off_by_rendering_is_off(template: str, arguments: dict[str, Any]) -> None:
    made = of(template, **arguments)
    assert not thinks(made)
    check_answer_start(made)
    check_thoughts_known(made)


def test_thoughts_without_tags_are_refused_in_generated_texts() -> None:
    with pytest.raises(ThoughtBeforeAnswer, match="thinking: false"):
        check_thoughts_known(of(WORDED, thinking=True))
    check_thoughts_known(of(DISTILL))  # these can be taken out


def test_an_answer_with_tags_of_its_own_stands_after_an_empty_thought_and_its_tag() -> None:
    off = of(RESPONSE, reasoning=False)
    after = answer_start(off).after(render_chat(off, "hi"))
    assert after.endswith("<|CHATBOT|><|START_THINKING|><|END_THINKING|><|START_RESPONSE|>")
    default = of(RESPONSE)
    check_answer_start(default)
    assert answer_start(default).after(render_chat(default, "hi")).endswith("<|CHATBOT|><|START_RESPONSE|>")
    assert {each.closing for each in thought_tags(off)} == {each.closing for each in thought_tags(default)}
    text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes"
    assert answer_of(text, "", thought_tags(off)) == "Yes"
