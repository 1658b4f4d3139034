"""Conversations with a model in its chat template."""

from __future__ import annotations

from lrt.models import LanguageModel
from lrt.models.prompts import render_chat, render_messages


def as_user(lm: LanguageModel, prompt: str) -> str:
    """A prompt as the user's message in the model's chat template, up to where the model answers.

    Raises ChatNotRendered (a `lrt.UserError`) for a model without a chat template.
    """
    return render_chat(lm.tokenizer, prompt)


class Conversation:
    """A conversation with a model, which remembers every turn. `lrt.steer` around `say` steers the answer."""

    def __init__(self, lm: LanguageModel, max_new_tokens: int = 200) -> None:
        self.lm, self.max_new_tokens = lm, max_new_tokens
        self.messages: list[dict[str, str]] = []

    def say(self, message: str) -> str:
        """The model's answer to a message. Raises ChatNotRendered for a model without a chat template; the
        message is then not part of the conversation."""
        said = [*self.messages, {"role": "user", "content": message}]
        answer = self.lm.generate(render_messages(self.lm.tokenizer, said), self.max_new_tokens)
        self.messages = [*said, {"role": "assistant", "content": answer}]
        return answer
