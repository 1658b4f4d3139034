import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lrt.models import TokenizersDiffer, check_same_tokenizer, tokenizer_digest
from lrt.models.tokenization import PROBES, same_tokens, splitting_rules

WORDS = ["<s>", "<unk>", "once", "upon", "a", "time", "on", "ce"]
TEXTS = ["once upon a time", "a time"]


def tokenizer(words: list[str] = WORDS, bos: bool = False) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(words)}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        rules.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token="<s>", unk_token="<unk>", pad_token="<s>"
    )


def test_equal_tokenizers_pass_and_have_one_digest() -> None:
    check_same_tokenizer(tokenizer(), tokenizer(), TEXTS)
    assert tokenizer_digest(tokenizer()) == tokenizer_digest(tokenizer())


def test_the_digest_survives_use_and_a_chat_template() -> None:
    used = tokenizer()
    before = tokenizer_digest(used)
    used(TEXTS, padding=True, truncation=True, max_length=3)
    used.chat_template = "{{ messages }}"
    assert tokenizer_digest(used) == before


@pytest.mark.parametrize(
    "other",
    [
        tokenizer([*WORDS, "dog"]),
        tokenizer([*WORDS[:4], "time", "a", *WORDS[6:]]),
        tokenizer(bos=True),
    ],
    ids=["a word more", "two words swapped", "a BOS"],
)
def test_any_difference_shows_in_the_digest(other: PreTrainedTokenizerFast) -> None:
    assert tokenizer_digest(tokenizer()) != tokenizer_digest(other)


def test_the_first_differing_token_is_named() -> None:
    swapped = tokenizer([*WORDS[:4], "time", "a", *WORDS[6:]])
    with pytest.raises(TokenizersDiffer):
        check_same_tokenizer(tokenizer(), swapped)
    with pytest.raises(TokenizersDiffer):
        check_same_tokenizer(tokenizer(), tokenizer([*WORDS, "dog"]))


def test_the_first_text_whose_ids_differ_is_named() -> None:
    # the vocabularies agree: only the texts can tell
    lower = tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    check_same_tokenizer(tokenizer(), lower, ["a time"])
    with pytest.raises(TokenizersDiffer):
        check_same_tokenizer(tokenizer(), lower, ["a time", "Once"])


def test_what_stands_before_a_text_is_each_models_own() -> None:
    check_same_tokenizer(tokenizer(), tokenizer(bos=True), ["a time", "<s>once"])


def test_rules_that_no_probe_shows_make_two_tokenizers() -> None:
    """One vocabulary, and rules that differ on one word alone."""
    replacing = tokenizer()
    replacing.backend_tokenizer.normalizer = normalizers.Replace("once", "on ce")
    check_same_tokenizer(tokenizer(), replacing, PROBES)
    assert not same_tokens(tokenizer(), replacing)
    stripping = tokenizer()
    stripping.add_tokens([AddedToken("upon", lstrip=True)])
    plain = tokenizer()
    plain.add_tokens([AddedToken("upon")])
    assert not same_tokens(stripping, plain)


def test_what_decides_no_texts_ids_makes_no_second_tokenizer() -> None:
    other = tokenizer(bos=True)
    other.add_special_tokens({"eos_token": "time"})
    other(TEXTS, padding=True, truncation=True, max_length=3)
    special, plain = tokenizer(), tokenizer()
    special.add_special_tokens({"eos_token": "time"})
    plain.add_tokens([AddedToken("time", normalized=False)])
    assert same_tokens(tokenizer(), tokenizer(bos=True))
    assert tokenizer_digest(special) != tokenizer_digest(plain)
    assert same_tokens(special, plain)
    assert same_tokens(special, other)


@pytest.mark.parametrize(
    ("full", "short"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), {"type": "ByteLevel", "add_prefix_space": False}),
        (pre_tokenizers.Metaspace(), {"type": "Metaspace", "replacement": "\u2581"}),
        (None, None),
    ],
)
def test_rules_are_compared_with_their_defaults(full: Any, short: Any) -> None:
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = full
    written = json.loads(rules.to_str())
    written["pre_tokenizer"] = short
    if isinstance(short, dict):
        short |= {"trim_offsets": True} if full.__class__ is pre_tokenizers.ByteLevel else {}
        assert written["pre_tokenizer"] != json.loads(rules.to_str())["pre_tokenizer"]
    assert splitting_rules(Tokenizer.from_str(json.dumps(written))) == splitting_rules(rules)
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.Digits()
    assert splitting_rules(other) != splitting_rules(rules)
