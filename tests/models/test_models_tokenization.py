import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lrt.models import TokenizersDiffer, check_same_tokenizer, tokenizer_digest

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
    check_same_tokenizer(tokenizer(), tokenizer(bos=True))
    with pytest.raises(TokenizersDiffer):
        check_same_tokenizer(tokenizer(), tokenizer(bos=True), ["a time", "once"])
