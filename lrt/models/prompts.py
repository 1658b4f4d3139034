"""Text as a model reads it: to token ids with exactly one beginning."""

from collections.abc import Sequence
from typing import Any


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that may hold special tokens (a rendered chat, say).

    The tokenizer's own beginning (BOS) is added once: a text that already starts with it gets no
    second one, the usual fault of rendering a chat template to text and tokenising the result.
    Raises ValueError for a text that comes out empty.
    """
    bos = tokenizer.bos_token or ""
    rows = []
    for text in texts:
        begun = bool(bos) and text.startswith(bos)
        ids = [int(i) for i in tokenizer(text, add_special_tokens=not begun)["input_ids"]]
        if not ids:
            raise ValueError(f"the text {text!r} has no tokens; a prompt needs at least one")
        rows.append(ids)
    return rows


def render_chat(tokenizer: Any, user: str, assistant: str | None = None, system: str = "") -> str:
    """One exchange in the model's chat template, as text for `encode`.

    Without `assistant` the text ends where the model would begin to answer. A template that takes
    no system role has it put before the user's words. Raises ValueError for a tokenizer without a
    chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "this model's tokenizer has no chat template; chat-formatted text needs an instruction-tuned pair"
        )
    turns = [{"role": "user", "content": user}]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    if assistant is not None:
        turns.append({"role": "assistant", "content": assistant})
    options = {"tokenize": False, "add_generation_prompt": assistant is None}
    try:
        return str(tokenizer.apply_chat_template(turns, **options))
    except Exception:
        if not system:
            raise
        folded = [{"role": "user", "content": f"{system}\n\n{user}"}, *turns[2:]]
        return str(tokenizer.apply_chat_template(folded, **options))
