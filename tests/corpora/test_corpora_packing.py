from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_tokens import WORDS, word_tokenizer

from lrt.corpora import (
    SPLITS,
    CorpusEmpty,
    CorpusError,
    CorpusTooShort,
    Document,
    PackedCorpus,
    begin_ids,
    end_ids,
    pack,
    split_of,
)
from lrt.errors import InvalidValue

WANTED = {"train": 240, "validation": 24, "test": 24}


def documents(count: int, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(" ".join(rng.choice(WORDS, rng.integers(3, 30))), "ab"[i % 2]) for i in range(count)]


def packed(texts: list[Document], tokenizer: Any, **settings: Any) -> PackedCorpus:
    return pack(texts, tokenizer, settings.pop("context", 12), WANTED, **settings)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_sequences_are_the_documents_laid_end_to_end(seed: int, context: int) -> None:
    tokenizer = word_tokenizer(bos_token="<bos>")
    texts = documents(200, seed)
    corpus = packed(texts, tokenizer, context=context, seed=seed)
    by_id = {d.id: d for d in texts}
    for split in SPLITS:
        sequences = corpus.splits[split]
        assert sequences.tokens.shape == (WANTED[split] // context, context)
        ids, owners = sequences.tokens.ravel(), sequences.documents.ravel()
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            document = by_id[int(owners[start])]
            assert split_of(document.id, seed=seed) == split
            words = ["<bos>", *document.text.split()]
            assert tokenizer.convert_ids_to_tokens(ids[start:stop]) == words[: stop - start]
            if stop < len(ids):  # only the very last document is cut
                assert stop - start == len(words)
            assert corpus.groups[int(sequences.groups.ravel()[start])] == document.source


def test_no_document_is_in_two_splits(tokenizer: Any) -> None:
    corpus = packed(documents(200), tokenizer)
    owners = [set(corpus.splits[split].documents.ravel().tolist()) for split in SPLITS]
    assert all(owners)
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_order_of_documents_is_shuffled(tokenizer: Any) -> None:
    texts = documents(100)
    corpus = packed(texts, tokenizer)
    _, first = np.unique(corpus.splits["train"].documents, return_index=True)
    met = corpus.splits["train"].documents.ravel()[np.sort(first)].tolist()
    came = [d.id for d in texts if d.id in set(met)]
    assert sorted(met) == sorted(came)
    assert met != came


def test_same_input_same_digest_and_anything_else_another(tokenizer: Any) -> None:
    texts = documents(200)
    digests = [
        packed(texts, tokenizer).digest,
        packed(texts, tokenizer, seed=1).digest,
        packed(texts, tokenizer, context=11).digest,
        packed(texts[:190], tokenizer).digest,
        packed(texts, tokenizer, end=[1]).digest,
        packed([Document(d.text, "c") for d in texts], tokenizer).digest,
    ]
    assert digests[0] == packed(iter(texts), tokenizer).digest
    assert len({*digests[:3], *digests[4:]}) == 5


def test_no_more_documents_are_read_than_needed(tokenizer: Any) -> None:
    read = 0

    def endless() -> Iterator[Document]:
        nonlocal read
        while True:
            read += 1
            yield Document(" ".join(WORDS[(read * 7 + i) % 500] for i in range(3 + read % 20)))

    packed(endless(), tokenizer)  # type: ignore[arg-type]
    assert read < 1000


def test_begin_is_the_tokenizers_and_is_not_doubled(
    tokenizer: Any, tokenizer_without_bos: Any, tokenizer_without_specials: Any
) -> None:
    texts = [Document(f"<bos> {d.text}") for d in documents(200)]
    ids = packed(texts, tokenizer).splits["train"].tokens.ravel()
    assert (ids == 0).any()
    assert not ((ids[1:] == 0) & (ids[:-1] == 0)).any()
    ids = packed(documents(200), tokenizer_without_bos).splits["train"].tokens.ravel()
    assert ids[0] == 1
    with pytest.raises(CorpusError, match="BOS"):
        packed(documents(200), tokenizer_without_specials)
    assert len(packed(documents(200), tokenizer_without_specials, begin=()).splits["train"])


def test_duplicates_and_empty_documents_are_excluded_and_the_texts_of_others_kept(tokenizer: Any) -> None:
    texts = documents(150)
    corpus = packed(texts + texts[40:60] + [Document("  ")] * 3, tokenizer)
    assert corpus.documents_excluded == {"empty": 3, "duplicates": 20}
    by_id = {document.id: document.text for document in texts}
    assert len(dict(corpus.texts)) == len([*corpus.texts])
    assert all(by_id[id_] == text for id_, text in corpus.texts)
    packed_ids = {id_ for split in SPLITS for id_ in corpus.splits[split].documents.ravel().tolist()}
    assert packed_ids <= set(dict(corpus.texts))


def test_a_split_that_the_documents_cannot_fill_is_logged(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = pack(documents(60), tokenizer, 12, {"train": 10**6})
    assert corpus.rows("train") % 12 == 0
    assert 0 < corpus.rows("train") < 10**6
    assert corpus.rows("test") == 0
    assert "1000000" in caplog.text
    assert sum(corpus.tokens_by_group("train").values()) == corpus.rows("train")


def test_empty_corpus_says_why(tokenizer: Any) -> None:
    with pytest.raises(CorpusEmpty, match="no document at all"):
        packed([], tokenizer)
    with pytest.raises(CorpusEmpty, match="30 too long"):
        packed([replace(each, excluded="too long") for each in documents(30)], tokenizer)


def test_one_document_cannot_be_split(tokenizer: Any) -> None:
    whole = Document("\n".join(d.text for d in documents(60)))
    with pytest.raises(CorpusTooShort, match="unit=line"):
        packed([whole], tokenizer)


def test_corpus_shorter_than_one_sequence(tokenizer: Any) -> None:
    with pytest.raises(CorpusTooShort, match=r"corpus\.context=100"):
        pack(documents(3), tokenizer, 100, {"train": 200})
    with pytest.raises(CorpusTooShort, match=r"corpus\.tokens\.train=50"):
        pack(documents(3), tokenizer, 100, {"train": 50})


def test_invalid_settings(tokenizer: Any) -> None:
    with pytest.raises(InvalidValue, match=r"corpus\.context=1"):
        packed(documents(5), tokenizer, context=1)
    with pytest.raises(InvalidValue, match=r"corpus\.tokens\.dev=12"):
        pack(documents(5), tokenizer, 12, {"dev": 12})  # type: ignore[dict-item]


CHATML = (
    "{% for m in messages %}<im_start>{{ m.role }} {{ m.content }}<im_end>{% endfor %}"
    "{% if add_generation_prompt %}<im_start>assistant {% endif %}"
)


@pytest.mark.parametrize(
    ("specials", "template", "marks"),
    [
        # Pythia, SmolLM2 and Qwen2.5 base; Llama and Gemma; Qwen2.5-Instruct; SmolLM2-Instruct
        ({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}, None, ("<|endoftext|>", None)),
        ({"eos_token": "<|endoftext|>"}, None, ("<|endoftext|>", None)),
        ({"bos_token": "<bos>", "eos_token": "<eos>"}, "{{ bos_token }}" + CHATML, ("<bos>", "<eos>")),
        ({"eos_token": "<im_end>"}, CHATML, ("<|endoftext|>", "<im_end>")),
        ({"bos_token": "<im_start>", "eos_token": "<im_end>"}, CHATML, ("<|endoftext|>", "<im_end>")),
        # a template that fails says nothing about the BOS
        ({"bos_token": "<bos>"}, "{{ raise_exception('no') }}", ("<bos>", None)),
    ],
)
def test_the_mark_between_documents_is_none_between_turns(
    specials: dict[str, str], template: str | None, marks: tuple[str, str | None]
) -> None:
    made = word_tokenizer(**specials)
    made.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    made.chat_template = template
    begin, end = marks
    assert begin_ids(made) == (made.convert_tokens_to_ids(begin),)
    assert end_ids(made) == (() if end is None else (made.convert_tokens_to_ids(end),))


def test_a_bos_that_opens_turns_stands_where_there_is_no_other_mark() -> None:
    made = word_tokenizer(bos_token="<im_start>", eos_token="<im_end>")
    made.chat_template = CHATML
    assert begin_ids(made) == (made.bos_token_id,)
