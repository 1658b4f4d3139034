"""Tokenizers: what tells two apart, and the check that a pair of models shares one."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


class TokenizersDiffer(ValueError):
    """Two models turn text into different token ids, so their states cannot be paired."""


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over all that decides which ids a text becomes (so not over the chat template)."""
    content: dict[str, Any] = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # These two change with every call that pads or truncates.
        rules.pop("padding", None)
        rules.pop("truncation", None)
        content["rules"] = rules
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_same_tokenizer(source: Any, target: Any, sample_texts: Iterable[str] = ()) -> None:
    """Raise `TokenizersDiffer`, naming the first difference, unless the two give the same ids.

    The vocabularies are compared whole, in order of ids, then the ids of each sample text, which
    tell a difference in rules (merges, normalisation, a leading BOS) that vocabularies hide.
    """
    ours, theirs = source.get_vocab(), target.get_vocab()
    if ours != theirs:
        differing = [
            (min(i for i in (ours.get(token), theirs.get(token)) if i is not None), token)
            for token in ours.keys() | theirs.keys()
            if ours.get(token) != theirs.get(token)
        ]
        _, token = min(differing)
        raise TokenizersDiffer(
            f"source and target have different tokenizers: token {token!r} has id "
            f"{ours.get(token, 'none')} in the source and {theirs.get(token, 'none')} in the "
            f"target ({len(differing)} tokens differ of {len(ours)} and {len(theirs)}); "
            "set `pair` to two models of one family"
        )
    for text in sample_texts:
        one, other = (list(t(text)["input_ids"]) for t in (source, target))
        if one != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)),
            )
            raise TokenizersDiffer(
                f"source and target have different tokenizers: the text {text[:80]!r} becomes "
                f"{one[at : at + 4]} in the source and {other[at : at + 4]} in the target from "
                f"token {at} on; set `pair` to two models of one family"
            )
