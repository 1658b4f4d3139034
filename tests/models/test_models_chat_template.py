"""Chat templates are strangers' programs: the same text on any day, and no harm."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils as theirs
from models.chat_templates import CHANNELS, DISTILL, GRANITE, LLAMA, QWEN, SMOL, word_tokenizer

from lrt.corpora.chats import as_chat
from lrt.errors import InvalidValue
from lrt.models import chat_template
from lrt.models.chat_template import DATE, ChatNotRendered, ChatTemplate, TemplateUnusable
from lrt.models.prompts import render_chat, render_messages

ASKED = [{"role": "user", "content": "Where is the Bäcker?\n<b>'"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Here 😀"}]
USES_ALL = (
    "{% set ns = namespace(n=0) %}{% macro turn(m) %}[{{ m.role | upper }}]{{ m.content | trim }}"
    "{% endmacro %}\n"
    "    {% for m in messages %}\n{% if loop.index > 9 %}{% break %}{% endif %}{{ turn(m) }}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{% generation %}{{ ns.n }}{% endgeneration %}"
    "{{ {'a': messages, 'b': [1, none, true]} | tojson }}{{ messages | tojson(indent=2) }}{{ tools is none }}"
    "{{ dict(a=1).items() | list }}{{ messages[-1]['content'][::-1] }}{{ eos_token }}{{ missing }}"
)


class Today(datetime):
    """Another day each time a program asks."""

    day = 0

    @classmethod
    def now(cls, tz: Any = None) -> "Today":
        cls.day += 1
        return cls(2031, 1, cls.day, tzinfo=tz)


@pytest.mark.parametrize("template", [LLAMA, GRANITE, CHANNELS])
def test_a_prompt_is_the_same_on_any_day(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer(template)
    monkeypatch.setattr(theirs, "datetime", Today)
    # the usual fault is there to be made
    one, other = (tokenizer.apply_chat_template(ASKED, tokenize=False) for _ in range(2))
    assert one != other
    first = render_messages(tokenizer, ASKED)
    assert "2024" in first.replace("April 2024", "")
    chat_template.PROCESS.close()  # another day, another process
    assert render_messages(tokenizer, ASKED) == first
    assert DATE == "26 Jul 2024"


def test_chance_is_the_same_in_every_run() -> None:
    drawing = word_tokenizer("{{ messages[0].content }}{{ range(10 ** 4) | random }}{{ lipsum() }}")
    first = render_chat(drawing, "a")
    chat_template.PROCESS.close()
    assert render_chat(drawing, "a") == render_chat(drawing, "a") == first


@pytest.mark.parametrize("template", [USES_ALL, QWEN, DISTILL, SMOL])
@pytest.mark.parametrize("messages", [ASKED, ANSWERED])
def test_templates_read_as_by_transformers(template: str, messages: list[dict[str, str]]) -> None:
    tokenizer = word_tokenizer(template)
    expected = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=messages is ASKED, enable_thinking=False
    )
    assert ChatTemplate.of(tokenizer, {"enable_thinking": False}).render(messages) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ 'abcdefghij' * 99 }}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ messages[0].content.ljust(10 ** 10) }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% for i in range(10 ** 9) %}a{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__['os'].system('true') }}",
        "{{ messages.append({'role': 'user', 'content': 'a'}) }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ ('{0.__class__.__base__}' | format).format(1) }}{{ '{0.__class__}'.format(1)() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content }}",
        "{% if",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "",
        "  \n",
        "{# nothing #}",
        "{{ bos_token }}You are helpful.",
    ],
)
def test_a_hostile_template_is_an_error_and_nothing_else(template: str) -> None:
    start = time.monotonic()
    with pytest.raises((ChatNotRendered, TemplateUnusable)):
        render_chat(word_tokenizer(template), "Hi there?")
    assert time.monotonic() - start < 15
    # and another template is rendered as ever
    assert render_chat(word_tokenizer(QWEN), "a").startswith("<|im_start|>user\na")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 9) }}",
        "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x ** 9 %}{% endfor %}",
    ],
)
def test_a_template_without_end_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 0.1)
    with pytest.raises(TemplateUnusable):
        render_chat(word_tokenizer(template), "a")
    # a corpus does not go through all its conversations to find out
    with pytest.raises(TemplateUnusable):
        as_chat("a", word_tokenizer(template))


def test_the_process_has_no_secrets_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    chat_template.PROCESS.close()
    render_chat(word_tokenizer(QWEN), "a")
    process = Path(f"/proc/{chat_template.PROCESS.pid}")
    if process.is_dir():
        assert b"secret" not in (process / "environ").read_bytes()
        limits = (process / "limits").read_text().splitlines()
        assert any(line.split()[:5] == ["Max", "open", "files", "3", "3"] for line in limits)


@pytest.mark.parametrize("template", [5, ["a"], {"default": 5}])
def test_a_template_that_is_no_text_is_refused(template: Any) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ChatNotRendered):
        render_chat(tokenizer, "a")


def test_of_several_templates_the_default_is_taken() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = {"default": QWEN, "tool_use": LLAMA}
    assert render_chat(tokenizer, "a") == render_chat(word_tokenizer(QWEN), "a")
    tokenizer.chat_template = {"tool_use": LLAMA}
    with pytest.raises(ChatNotRendered):
        render_chat(tokenizer, "a")


def test_arguments_reach_the_template_and_its_facts() -> None:
    plain = ChatTemplate.of(word_tokenizer(QWEN))
    off = ChatTemplate.of(word_tokenizer(QWEN), {"enable_thinking": False})
    assert render_chat(off, "a") == render_chat(plain, "a") + "<think>\n\n</think>\n\n"
    assert off.facts != plain.facts
    off.check()


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (QWEN, {"enable_thinkng": False}),
        (QWEN, {"messages": []}),
        (QWEN, {"add_generation_prompt": False}),
        (QWEN, {"enable_thinking": object()}),
        (None, {"enable_thinking": False}),
    ],
)
def test_arguments_that_change_nothing_are_refused(template: str | None, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        ChatTemplate.of(word_tokenizer(template), arguments).check()


@pytest.mark.parametrize(
    "written",
    [
        "strftime_now",
        "raise_exception ~ ''",
        "[lipsum]",
        "messages | map('upper')",
        "'%s' | format(joiner())",
        "messages[0].content.upper",
    ],
)
def test_no_text_holds_an_address(written: str) -> None:
    tokenizer = word_tokenizer("{{ messages[0].content }}{{ " + written + " }}")
    with pytest.raises(ChatNotRendered):
        render_chat(tokenizer, "a")
    # but a message may
    spoken = "<function f at 0x7f00>"
    assert render_chat(word_tokenizer(QWEN), spoken).count(spoken) == 1


@pytest.mark.parametrize("half", ["'\\ud83d'", "messages[0].content[:1]", "bos_token"])
def test_half_a_surrogate_pair_is_refused(half: str) -> None:
    tokenizer = word_tokenizer("{{ messages[0].content }}{{ " + half + " }}")
    template = ChatTemplate(tokenizer.chat_template, {"bos_token": "\ud83d"})
    with pytest.raises(ChatNotRendered):
        template.render([{"role": "user", "content": "\ud83d" if "content" in half else "a"}])
    assert render_chat(word_tokenizer("{{ messages[0].content }}{{ '\\ud83d\\ude00' }}"), "a") == "a😀"
