"""The token ids between documents that are packed into one sequence."""

from __future__ import annotations

from typing import Any

from lrt.corpora.errors import CorpusError
from lrt.models.chat_template import ChatNotRendered
from lrt.models.prompts import render_chat
from lrt.models.special_tokens import leading_ids

TEXT_MARK = "<|endoftext|>"  # what GPT-2's descendants saw between documents in training


def begin_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that mark the beginning of a document: what the tokenizer puts before every text.

    Where that is nothing, its BOS if it has one, else its EOS.

    Some instruct models open every chat turn with their BOS (SmolLM2), or have no BOS and close every turn
    with their EOS (Qwen2.5). There the mark is `<|endoftext|>`, if the vocabulary has it.

    Raises CorpusError for a tokenizer with neither BOS nor EOS.
    """
    if leading := leading_ids(tokenizer):
        return leading
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and not _opens_turns(tokenizer):
        return (int(bos),)
    for token_id in (tokenizer.get_vocab().get(TEXT_MARK), bos, eos):
        if token_id is not None:
            return (int(token_id),)
    raise CorpusError(
        "this tokenizer has neither a BOS nor an EOS token to separate documents in a packed sequence; "
        "use a tokenizer with one, or pass `begin` (the ids between documents) to lrt.corpora.pack"
    )


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids after every document: the EOS, or nothing if documents begin with it or it does not exist."""
    eos = tokenizer.eos_token_id
    return () if eos is None or begin_ids(tokenizer) == (eos,) else (int(eos),)


def _opens_turns(tokenizer: Any) -> bool:
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        return render_chat(tokenizer, "a", "b").count(tokenizer.bos_token) > 1
    except ChatNotRendered:
        return False
