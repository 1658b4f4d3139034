"""A map between models that cut texts into different tokens."""

import copy
import random
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from storybook_models import image_of, semi_orthogonal
from torch.nn.functional import cosine_similarity
from two_tokenizers import last_byte_model, tokenizer_of, with_other_ids

import lrt
from lrt.api import fitting
from lrt.corpora import PADDING, Alignment, NotAligned, PackedCorpus, Sequences, pack
from lrt.models import LanguageModel, ModelSpec

LAYER = 1
SCALE = 3.0
WORDS = ["dog", "dogs", "été", "chien", "jour", "story", "wolf", "naïve", "🎉", "北京", "it's", "x_1", "\r\n"]


def texts_of(count: int, seed: int, words: list[str] = WORDS) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(10, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def planted() -> tuple[LanguageModel, LanguageModel, torch.Tensor]:
    """One model in the tokens of two tokenizers, the target's states the exact image `c Q h`."""
    source = last_byte_model(tokenizer_of([]))
    q = semi_orthogonal(48, source.width)
    return source, image_of(last_byte_model(tokenizer_of([" ".join(WORDS)] * 3)), q, SCALE), q


@pytest.fixture(scope="module")
def fitted(planted: Any) -> lrt.FittedMap:
    return lrt.fit_map(*planted[:2], texts_of(100, 0), layers=(LAYER, LAYER), pool=1, context=64)


def test_transfer_between_two_tokenizers_is_exact(planted: Any, fitted: lrt.FittedMap) -> None:
    source, target, _ = planted
    assert source.tokenizer("chien")["input_ids"] != target.tokenizer("chien")["input_ids"]
    assert fitted.card["metrics"]["fvu"] < 1e-4
    prompts = texts_of(12, 1, WORDS[:4]), texts_of(12, 2, WORDS[4:])
    native, own = (lrt.extract_vector(lm, *prompts, layer=LAYER, behaviour="dogs") for lm in (target, source))
    transferred = fitted.transfer(own).vector
    assert float(cosine_similarity(transferred.direction, native.direction, dim=0)) > 0.9999
    torch.testing.assert_close(transferred.direction.norm(), native.direction.norm(), rtol=1e-3, atol=0)


def test_a_shuffled_alignment_transfers_nothing(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, _ = planted
    monkeypatch.setattr(fitting, "pack", lambda *a, **k: misaligned(pack(*a, **k)))
    shuffled = lrt.fit_map(source, target, texts_of(100, 0), layers=(LAYER, LAYER), pool=1, context=64)
    assert shuffled.card["metrics"]["fvu"] > 0.95


def misaligned(corpus: PackedCorpus) -> PackedCorpus:
    """The corpus with the source's spans beside those of the target in the sequence before."""

    def shuffled(sequences: Sequences) -> Sequences:
        assert sequences.alignment is not None
        tokens, bounds = np.roll(sequences.alignment.tokens, 1, axis=0), sequences.alignment.bounds.copy()
        bounds[..., 2:4] = np.roll(bounds[..., 2:4], 1, axis=0)
        both = (sequences.documents != PADDING) & np.roll(sequences.documents != PADDING, 1, axis=0)
        documents = np.where(both, sequences.documents, PADDING)
        return replace(sequences, documents=documents, alignment=Alignment(tokens, bounds))

    return replace(corpus, splits={split: shuffled(each) for split, each in corpus.splits.items()})


def test_how_many_tokens_have_a_partner_is_on_the_card(fitted: lrt.FittedMap) -> None:
    train = fitted.card["corpus"]["aligned"]["train"]
    assert train["source"]["paired"] == train["target"]["paired"] <= train["target"]["tokens"]
    assert train["target"]["tokens"] < train["source"]["tokens"]
    assert fitted.card["rows"]["train"] <= train["target"]["paired"]


@pytest.mark.parametrize("pool", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_other_ids_of_the_same_tokens_give_the_same_map(pool: int) -> None:
    source = last_byte_model(tokenizer_of([" ".join(WORDS)] * 3))
    renamed = with_other_ids(source)
    texts = texts_of(100, 3)
    same, other = (
        lrt.fit_map(source, target, texts, layers=(LAYER, LAYER), pool=pool, context=64)
        for target in (source, renamed)
    )
    assert "aligned" not in same.card["corpus"]
    assert other.card["metrics"]["fvu"] < 1e-6
    paired = other.card["corpus"]["aligned"]["train"]["source"]
    assert paired["tokens"] - paired["paired"] < 0.1 * paired["tokens"]  # what stands between documents


def test_a_token_more_is_another_tokenizer_of_the_same_map(planted: Any) -> None:
    source, _, _ = planted
    more = copy.deepcopy(source.tokenizer)
    more.add_tokens(["zyzzyva"])
    other = LanguageModel(ModelSpec("more"), source.model, more)
    settings = {"layers": (LAYER, LAYER), "pool": 4, "context": 64}
    fitted = lrt.fit_map(source, other, texts_of(100, 0), **settings)
    assert fitted.card["metrics"]["fvu"] < 1e-4


def test_a_tokenizer_of_code_is_refused(planted: Any) -> None:
    source, target, _ = planted
    other = LanguageModel(ModelSpec("code"), target.model, ByCode())
    with pytest.raises(NotAligned, match=r"tokenizer\.json"):
        lrt.fit_map(source, other, texts_of(100, 0), layers=(LAYER, LAYER))


class ByCode:
    """A tokenizer whose rules are Python."""

    bos_token_id, eos_token_id, chat_template = 0, 1, None
    special_tokens_map: ClassVar[dict[str, str]] = {}

    def get_vocab(self) -> dict[str, int]:
        return {"<bos>": 0, "<eos>": 1, "a": 2}

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        many = [[2] * len(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": many[0] if isinstance(texts, str) else many}
