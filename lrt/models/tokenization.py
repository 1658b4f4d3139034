"""Tokenizers: their digest, and whether two models turn text into the same token ids."""

import hashlib
import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

from lrt.errors import InvalidValue


class TokenizersDiffer(InvalidValue):
    """Two models turn text into different token ids, so their states cannot be paired."""


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over everything that decides a text's token ids. The chat template is not part of it."""
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest({"vocabulary": sorted(tokenizer.get_vocab().items()), "special": special})
    written = backend.to_str()
    # both models of a pair mostly have the same, and a large vocabulary takes seconds to put in order
    known = _digest({"written": written, "special": special})
    if known not in _DIGESTS:
        rules = json.loads(written)
        # These two change with every call that pads or truncates.
        rules.pop("padding", None)
        rules.pop("truncation", None)
        vocabulary = sorted(tokenizer.get_vocab().items())
        _DIGESTS[known] = _digest({"vocabulary": vocabulary, "special": special, "rules": rules})
    return _DIGESTS[known]


_DIGESTS: dict[str, str] = {}  # by the digest of what a tokenizer writes, in its own order


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def splitting_rules(rules: Tokenizer) -> dict[str, Any]:
    """How a tokenizer normalises and splits text: by what it means, not by how its file writes it."""
    # the parts by themselves: the whole would write its vocabulary, too
    parts = {"normalizer": rules.normalizer, "pre_tokenizer": rules.pre_tokenizer}
    return {
        **{name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()},
        "ignore_merges": bool(getattr(rules.model, "ignore_merges", False)),
    }


def _encoding_rules(tokenizer: Any) -> str | None:
    """Digest of all that turns text into ids, beside what stands before and after it; None where the
    tokenizer does not say it.

    Names of special tokens, padding and templates are each model's own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    key = tokenizer_digest(tokenizer)
    if key not in _RULES:
        written = json.loads(backend.to_str())
        added = sorted(written["added_tokens"], key=lambda token: int(token["id"]))
        _RULES[key] = _digest(
            {
                **{name: written[name] for name in ("normalizer", "pre_tokenizer", "model")},
                "added": [{k: v for k, v in token.items() if k != "special"} for token in added],
            }
        )
    return _RULES[key]


_RULES: dict[str, str] = {}  # by the tokenizer's digest

PROBES = (
    "The naïve café\u2014 it's 3.14159 or 2024, isn't it?\r\n\tNO, said Mme. O'Brien;  REALLY!!!\n\n\n",
    "def f(x_1: list[int]) -> None:\n        return {k: v**2 for k, v in x_1.items()}  # <b>&amp;</b>\n",
    "Größe, İstanbul, e\u0301 and é, ﬁne, ＡＢＣ, 北京和東京の漢字とカナ, 한국어, Русский, العربية, עברית",
    "🎉👩‍👩‍👧 ½ × 10⁻³ ≥ −7 €\u00a0\u200b\u2028…",
)
"""Texts that tokenizers of one vocabulary but other rules cut differently."""


def same_tokens(source: Any, target: Any, sample_texts: Iterable[str] = ()) -> bool:
    """Whether two tokenizers give the same ids for every text.

    By all of their rules: no text needs to show a difference. Where one of them does not say its rules, by
    their vocabularies, `PROBES` and the sample texts.
    """
    if tokenizer_digest(source) == tokenizer_digest(target):
        return True
    one, other = _encoding_rules(source), _encoding_rules(target)
    if one is not None and other is not None:
        return one == other
    try:
        check_same_tokenizer(source, target, chain(PROBES, sample_texts))
    except TokenizersDiffer:
        return False
    return True


def check_same_tokenizer(source: Any, target: Any, sample_texts: Iterable[str] = ()) -> None:
    """Raise `TokenizersDiffer`, with the first difference, unless both tokenizers give the same ids.

    Compares the whole vocabularies in order of ids, then the ids of each sample text. The texts show
    differences in rules (merges, normalisation) that equal vocabularies hide. What stands before a text is
    each model's own: one of them may begin texts with a BOS and the other not.
    """
    source_ids, target_ids = source.get_vocab(), target.get_vocab()
    fix = "Set `pair` to two models of one family"
    if source_ids != target_ids:
        differing = [
            (min(i for i in (source_ids.get(token), target_ids.get(token)) if i is not None), token)
            for token in source_ids.keys() | target_ids.keys()
            if source_ids.get(token) != target_ids.get(token)
        ]
        _, token = min(differing)
        raise TokenizersDiffer(
            f"source and target have different tokenizers: token {token!r} has id "
            f"{source_ids.get(token, 'none')} in the source and {target_ids.get(token, 'none')} in the "
            f"target ({len(differing)} tokens differ; vocabularies of {len(source_ids)} and "
            f"{len(target_ids)}). {fix}"
        )
    for text in sample_texts:
        one, other = (list(t(text, add_special_tokens=False)["input_ids"]) for t in (source, target))
        if one != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)),
            )
            raise TokenizersDiffer(
                f"source and target have different tokenizers: from token {at} on, the text {text[:80]!r} "
                f"becomes {one[at : at + 4]} in the source and {other[at : at + 4]} in the target. {fix}"
            )
