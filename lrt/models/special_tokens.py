"""Special tokens at the ends of a text: one rule for corpus documents, prompts and items of a model.

Before a text stands what the tokenizer puts there, once: a BOS with most, nothing with some. After it stands
nothing, or its last state would be that of an EOS.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from tokenizers.processors import TemplateProcessing

from lrt.errors import InvalidValue

log = logging.getLogger(__name__)


def leading_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids that a tokenizer puts before every text."""
    return special_ends(tokenizer)[0]


def special_ends(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts before and after every text by itself.

    Raises InvalidValue for one that changes the text's own ids, too.
    """
    bare: tuple[int, ...] = ()
    for text in _probes(tokenizer):
        if bare := tuple(tokenizer(text, add_special_tokens=False)["input_ids"]):
            break
    whole = tuple(tokenizer(text)["input_ids"])
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    raise InvalidValue(
        f"the tokenizer turns {text!r} into {list(bare)}, and with special tokens into {list(whole)}; these "
        "must stand before or after the text"
    )


def _probes(tokenizer: Any) -> Iterator[str]:
    """Texts until one has tokens: some vocabularies hold few words."""
    yield "a"
    yield from tokenizer.get_vocab()


def set_special_ends(tokenizer: Any, bos: bool | None, name: str) -> None:
    """Make a tokenizer put the BOS before every text where its checkpoint means one, and nothing after it.

    Where it does so already, it stays as it is.

    bos   Whether the checkpoint means a BOS; None where it does not say, and the tokenizer is right.
    name  Of the model, for the log.

    Raises InvalidValue for one that must be changed and is written in Python, as ByT5's: it has no rules that
    could be replaced.
    """
    before, after = special_ends(tokenizer)
    wanted = before
    if bos and tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in before:
        wanted = (tokenizer.bos_token_id, *before)
    elif bos is False and before == (tokenizer.bos_token_id,):
        wanted = ()
    if wanted == before and not after:
        return
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise InvalidValue(
            f"the tokenizer of {name} ({type(tokenizer).__name__}) puts the ids {list(before)} before and "
            f"{list(after)} after every text, must put {list(wanted)} before and none after, and has no "
            "rules that could be changed (tokenizer.json). Choose a model with a fast tokenizer"
        )
    log.info(
        "tokenizer of %s: texts begin with %s, as the checkpoint means, and end with nothing (it wrote %s "
        "before and %s after them)",
        name,
        *(tokenizer.convert_ids_to_tokens(ids) for ids in (wanted, before, after)),
    )
    # by names of their own: the tokens' text may hold signs that a template has a use for
    pieces = [f"T{i}" for i in range(len(wanted))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*pieces, "$A"],
        pair=[*pieces, "$A", "$B"],
        special_tokens=[
            {"id": piece, "ids": [token], "tokens": [tokenizer.convert_ids_to_tokens(token)]}
            for piece, token in zip(pieces, wanted, strict=True)
        ],
    )
