"""Sequences that two models read in different tokens."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_kinds import KINDS, TEXTS

from lrt.corpora import (
    BOUNDS,
    PACKED,
    PADDING,
    SPLITS,
    CorpusTooShort,
    Document,
    NotAligned,
    PackedCorpus,
    TemplatePair,
    begin_ids,
    end_ids,
    jsonl,
    pack,
)
from lrt.corpora.aligned_packing import AlignedPiece, cut_aligned
from lrt.corpora.alignment import AlignedText, Ints
from lrt.corpora.chats import chat_document
from lrt.models.chat_template import PLAIN_ROLES, ChatTemplate
from lrt.models.sides import SIDES, Side

CONTEXT = 48
PAIRS = [("byte-level", "SentencePiece BPE"), ("WordPiece", "byte-level, NFC"), ("Unigram", "byte-level")]


def documents(count: int = 120, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    words = " ".join(TEXTS).split(" ")
    return [
        Document(" ".join(draw.choices(words, k=draw.randint(2, 30))), "ab"[number % 2])
        for number in range(count)
    ]


def packed(
    pair: tuple[str, str], texts: list[Document], context: int = CONTEXT, **settings: Any
) -> PackedCorpus:
    source, target = (KINDS[kind]() for kind in pair)
    wanted = dict.fromkeys(SPLITS)
    return pack(texts, source, context, wanted, target=target, end=end_ids(source), **settings)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("context", [20, CONTEXT])
def test_both_models_read_the_same_text(pair: tuple[str, str], context: int) -> None:
    texts = documents(60)
    corpus = packed(pair, texts, context)
    read: dict[Side, dict[int, str]] = {}
    for side, kind in zip(SIDES, pair, strict=True):
        encoded = KINDS[kind]()([document.text for document in texts], add_special_tokens=False)["input_ids"]
        ids = (f" {' '.join(map(str, each))} " for each in encoded)
        read[side] = dict(zip((document.id for document in texts), ids, strict=True))
    spans = 0
    for split in SPLITS:
        sequences = corpus.splits[split]
        assert sequences.alignment is not None
        for number, documents_ in enumerate(sequences.documents):
            count = int((documents_ != PADDING).sum())
            assert (documents_[:count] != PADDING).all()
            bounds = sequences.alignment.bounds[number, :count]
            for at, (document, row) in enumerate(zip(documents_[:count], bounds, strict=True)):
                if at and document == documents_[at - 1]:
                    assert row[4] == bounds[at - 1, 5]
                for column, side in enumerate(SIDES):
                    ids = sequences.tokens_of(side)[number, row[2 * column] : row[2 * column + 1]]
                    assert (ids != PADDING).all()
                    assert f" {' '.join(map(str, ids))} " in read[side][int(document)]
                spans += 1
            for side in SIDES:
                ids = sequences.tokens_of(side)[number]
                used = int((ids != PADDING).sum())
                assert (ids[:used] != PADDING).all()
                assert used <= context
    paired = corpus.paired()
    assert sum(paired[split]["source"]["paired"] for split in SPLITS) == spans
    assert all(
        paired[split][side]["tokens"] >= paired[split][side]["paired"] for split in SPLITS for side in SIDES
    )


def test_no_sequence_could_take_another_span() -> None:
    corpus = packed(PAIRS[0], documents())
    for sequences in corpus.splits.values():
        fill = np.maximum(*((sequences.tokens_of(side) != PADDING).sum(axis=1) for side in SIDES))
        assert (fill > CONTEXT // 2).all()


def test_each_model_marks_documents_in_its_own_way() -> None:
    source, target = (KINDS[kind]() for kind in PAIRS[0])
    corpus = packed(PAIRS[0], documents(), open_groups=["b"])
    ids = {side: corpus.splits["train"].tokens_of(side) for side in SIDES}
    for side, tokenizer in zip(SIDES, (source, target), strict=True):
        count = (ids[side] == begin_ids(tokenizer)[0]).sum()
        assert count > 0
        assert 0 < (ids[side] == end_ids(tokenizer)[0]).sum() < count


def test_same_input_same_digest_and_it_comes_back_from_the_disk(tmp_path: Path) -> None:
    one, again, other = (packed(PAIRS[0], documents(), seed=seed) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    PACKED.write(tmp_path / "it", one)
    read = PACKED.read(tmp_path / "it")
    assert read.digest == one.digest
    assert read.aligned
    assert read.paired() == one.paired()
    assert read.tokens_by_group("train") == one.tokens_by_group("train")
    assert set(one.splits["train"].documents_in(None)) <= {document.id for document in documents()}


def test_a_text_between_boundaries_longer_than_a_sequence_is_dropped() -> None:
    # the word is one unknown token of the target's
    texts = [Document(f"dog {number} " + "🎉" * 300 + " dog") for number in range(60)]
    corpus = packed(("byte-level", "WordPiece"), texts, 16)
    assert corpus.splits["train"].tokens.shape[1] == 16
    tokens = corpus.paired()["train"]
    assert 0 < tokens["source"]["tokens"] < 60 * 300


def test_texts_that_cannot_be_aligned_are_counted_or_refused() -> None:
    class Changing(type(KINDS["byte-level"]())):  # type: ignore[misc]
        def __call__(self, text: Any, **settings: Any) -> Any:
            return super().__call__([each.replace("dog", "wolf") for each in text], **settings)

    made = KINDS["byte-level"]()
    changing = Changing(tokenizer_object=made.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    texts = [Document(f"name {number} " * 9 + ("dog" if number % 4 == 0 else "")) for number in range(80)]
    wanted = dict.fromkeys(SPLITS)
    corpus = pack(texts, changing, 16, wanted, target=KINDS["WordPiece"]())
    assert sum(corpus.documents_excluded.values()) == 20
    with pytest.raises(NotAligned, match="code"):
        pack((Document(f"dog {n}") for n in range(200)), changing, 16, wanted, target=KINDS["WordPiece"]())
    with pytest.raises(CorpusTooShort):
        packed(PAIRS[0], documents(60), 4000)


# -- chats --------------------------------------------------------------------------------------------


OTHER = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}"
TURNS = [
    {"role": "user", "content": " a user? \n"},  # which is in a template's own text
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "user"},
]


def test_turns_are_aligned_on_their_content() -> None:
    templates = TemplatePair(ChatTemplate(PLAIN_ROLES), ChatTemplate(OTHER))
    document = chat_document(TURNS, templates, part="chats")
    assert document.target_text == "<user>a user?</user><assistant>A dog.</assistant><user>user</user>"
    assert document.text.startswith("User:  a user?")
    contents = [
        (document.text[at : at + size], document.target_text[other : other + size])
        for at, other, size in document.shared
    ]
    assert contents == [("a user?", "a user?"), ("A dog.", "A dog."), ("user", "user")]
    assert document.shared[-1][0] > document.shared[1][0]
    assert document.text.endswith("Assistant:")


def test_the_last_span_of_a_chat_is_the_end_of_both_renderings() -> None:
    source, target = (KINDS[kind]() for kind in ("byte-level", "WordPiece"))
    target.chat_template = OTHER
    templates = TemplatePair(ChatTemplate.of(source), ChatTemplate.of(target))
    chats = [chat_document(f"Tell me of dog {n}", templates, part="a", answer=f"Dog {n}.") for n in range(90)]
    corpus = pack(chats, source, 64, dict.fromkeys(SPLITS), target=target, open_groups=["a"])
    sequences = corpus.splits["train"]
    assert sequences.alignment is not None
    checked = 0
    for number, owners in enumerate(sequences.documents):
        for at, (one, following) in enumerate(itertools.pairwise(owners.tolist())):
            if one == following or PADDING in (one, following):
                continue
            row = dict(zip(BOUNDS, sequences.alignment.bounds[number, at].tolist(), strict=True))
            assert row["start.text"] == row["stop.text"]
            for side, tokenizer in zip(SIDES, (source, target), strict=True):
                assert row[f"stop.{side}"] - row[f"start.{side}"] == 1
                last = sequences.tokens_of(side)[number, row[f"start.{side}"]]
                after = sequences.tokens_of(side)[number, row[f"stop.{side}"]]
                assert after == begin_ids(tokenizer)[0]
                chat = next(each for each in chats if each.id == one)
                assert last == tokenizer(chat.read_by(side), add_special_tokens=False)["input_ids"][-1]
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("context", range(7, 12))
def test_an_end_that_one_model_alone_writes_stays_with_the_text_before(context: int) -> None:
    ids: dict[Side, Ints] = {"source": np.arange(3), "target": np.arange(5)}  # the target's last two
    bounds = np.array([[at, at + 1, at, at + 1, at, at + 1] for at in range(3)])
    begin: dict[Side, tuple[int, ...]] = {"source": (9,), "target": (9,)}
    nothing: dict[Side, tuple[int, ...]] = {"source": (), "target": ()}
    text = AlignedText(ids, bounds)
    pieces = [AlignedPiece.of(number, "a", text, begin, nothing) for number in range(20)]
    cut = cut_aligned(pieces, ["a"], context, math.inf)
    ends = 0
    for number, owners in enumerate(cut.documents):
        spans = owners[owners != PADDING].tolist()
        following = cut.documents[number + 1, 0] if number + 1 < len(cut.documents) else None
        for at, (one, other) in enumerate(itertools.pairwise([*spans, following])):
            if one != other and other is not None:
                last = [cut.tokens[s][number, cut.bounds[number, at, 2 * i]] for i, s in enumerate(SIDES)]
                assert last == [2, 4]
                ends += 1
    assert ends > 10


def test_chats_are_read_from_files_for_both(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text('{"text": "Hello dog"}\n')
    templates = TemplatePair(ChatTemplate(PLAIN_ROLES), ChatTemplate(OTHER))
    (document,) = jsonl(file, "text", "part", templates)
    assert document.source == "part"
    assert document.read_by("source") == "User: Hello dog\n\nAssistant:"
    assert document.read_by("target") == "<user>Hello dog</user>"
    assert document.shared == ((6, 6, 9),)
