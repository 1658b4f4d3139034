"""Chat templates: conversations to texts, the same text on any day.

A template is a program of whoever wrote the checkpoint. It runs in a child process
(`lrt.models.template_process`), which ends after `SECONDS`.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lrt.errors import InvalidValue
from lrt.models import template_process

DATE = f"{template_process.NOW:%d %b %Y}"
"""The date of every prompt, which Llama 3.2's template falls back to. It would write the day of the run."""
SECONDS = 10.0  # of the processor; a template needs a millisecond
WAIT = 30 * SECONDS  # at most, on a machine that is busy with other things
PLAIN_ROLES = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""A template for models without one."""
RESERVED = ("messages", "add_generation_prompt")
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT")


class ChatNotRendered(InvalidValue):
    """A conversation that a model's chat template cannot render; the message says why."""


class TemplateUnusable(InvalidValue):
    """A chat template that goes beyond a limit of time, memory or length, whatever the conversation."""

    def __init__(self, fault: str) -> None:
        super().__init__(
            f"the chat template cannot be used: {fault}. Set pair.template to the other model, or use a "
            "model with another template"
        )


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, with the arguments it is rendered with.

    chat_template       Jinja text; None for a model without one.
    special_tokens_map  The tokenizer's special tokens by name (`bos_token`), which templates write.
    arguments           Further variables of the template (`enable_thinking`).
    tokens              Tokens added to the tokenizer's vocabulary, among them the tags of thoughts.
    """

    chat_template: str | None
    special_tokens_map: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> ChatTemplate:
        """A tokenizer's template; a ChatTemplate is returned as it is.

        Raises ChatNotRendered for a template that is not text.
        """
        if isinstance(tokenizer, ChatTemplate):
            return tokenizer
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, Mapping):  # several, by purpose
            template = template.get("default")
        if template is not None and not isinstance(template, str):
            raise ChatNotRendered(
                f"the tokenizer's chat template is a {type(template).__name__}; it must be Jinja text"
            )
        special = getattr(tokenizer, "special_tokens_map", {})
        added: Mapping[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
        names = {name: str(token) for name, token in special.items() if not isinstance(token, list | tuple)}
        return cls(template or None, names, dict(arguments or {}), tuple(sorted(added)))

    def or_plain_roles(self) -> ChatTemplate:
        """The same; `PLAIN_ROLES` for a model without a template."""
        return self if self.chat_template else replace(self, chat_template=PLAIN_ROLES)

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the texts, for fingerprints."""
        return {"chat_template": self.chat_template, "arguments": dict(self.arguments), "date": DATE}

    def check(self) -> None:
        """Raise InvalidValue for arguments that the template does not read, or that are not plain values.

        Raises ChatNotRendered for arguments of a template that cannot be read.
        """
        if self.arguments and self.chat_template is None:
            raise InvalidValue(
                f"pair.template_kwargs={dict(self.arguments)}: the model has no chat template; remove it, or "
                "set pair.template to the model that has one"
            )
        for name, value in self.arguments.items():
            if name in RESERVED or name not in self.reads:
                raise InvalidValue(
                    f"pair.template_kwargs.{name}: the chat template does not read it; allowed: "
                    f"{', '.join(self.settable) or 'none'}"
                )
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise InvalidValue(
                    f"pair.template_kwargs.{name}={value!r} must be a plain value: {error}"
                ) from error

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the variables that the template reads."""
        return tuple(PROCESS.reply({"template": self._text})["reads"])

    @property
    def settable(self) -> list[str]:
        """Names of the variables that `arguments` may set."""
        return [name for name in self.reads if name not in (*RESERVED, *self.special_tokens_map)]

    @property
    def _text(self) -> str:
        if self.chat_template is None:
            raise ChatNotRendered(
                "this model's tokenizer has no chat template; choose an instruction-tuned model for chats"
            )
        return self.chat_template

    def render(self, messages: Sequence[Mapping[str, str]], opened: bool = True) -> str:
        """A conversation as text; where the user speaks last, `opened` adds the start of the answer.

        Raises ChatNotRendered for an empty conversation, for one that the template refuses or writes without
        the user's last message, and for a text that is not Unicode. Raises TemplateUnusable for a template
        beyond a limit.
        """
        template = self._text
        if not messages:
            raise ChatNotRendered("a conversation needs at least one turn, got none")
        variables = {
            **self.special_tokens_map,
            "tools": None,
            "documents": None,
            "date_string": DATE,
            **self.arguments,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": opened and messages[-1]["role"] == "user",
        }
        text = str(PROCESS.reply({"template": template, "variables": variables})["text"])
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ChatNotRendered(
                f"the chat template writes {text[error.start]!a}, half of a surrogate pair, which no "
                "tokenizer can read; correct the template, or the message that it is from"
            ) from error
        last = messages[-1]
        if last["role"] == "user" and last["content"].strip() not in text:
            raise ChatNotRendered("the chat template does not write the user's message")
        return text


class TemplateProcess:
    """The child process, started when first needed and again after it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Its process id; None where it does not run."""
        return None if self._process is None else self._process.pid

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The process's reply, without an error.

        Raises ChatNotRendered for an error of the template, TemplateUnusable for one beyond a limit.
        """
        if self._owner != os.getpid():  # a fork must not share its parent's child
            self._process, self._owner, self._lock = None, os.getpid(), threading.Lock()
        line = json.dumps({**request, "seconds": SECONDS})
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            deadline = threading.Timer(WAIT, process.kill)
            deadline.start()
            try:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            finally:
                deadline.cancel()
            if not answer:
                self.close()
                raise TemplateUnusable(
                    f"a conversation takes more than {SECONDS:g} seconds, or ends the process"
                )
        reply: dict[str, Any] = json.loads(answer)
        if "unusable" in reply:
            raise TemplateUnusable(reply["unusable"])
        if "error" in reply:
            raise ChatNotRendered(f"the chat template refuses the conversation: {reply['error'][:500]}")
        return reply

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            names = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(template_process.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=names | {"TZ": "UTC"},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        return self._process


PROCESS = TemplateProcess()
atexit.register(PROCESS.close)
