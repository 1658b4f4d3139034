"""Where an answer begins, and which tags stand around a thought: by rendering, in any family's way."""

from typing import Any

import pytest
from models.chat_templates import CHANNELS, DISTILL, GRANITE, LLAMA, PONDER, QWEN, SMOL, word_tokenizer

from lrt.models.chat_template import ChatTemplate
from lrt.models.prompts import render_chat
from lrt.models.thinking import (
    ThoughtBeforeAnswer,
    ThoughtTags,
    answer_start,
    check_answer_start,
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
