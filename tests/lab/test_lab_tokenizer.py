import itertools
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from lrt.lab.grammar import OPTIONS, pages
from lrt.lab.tokenizer import load_or_train_tokenizer, train_tokenizer
from lrt.models.prompts import encode, render_chat


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_same_arguments_same_files(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train_tokenizer(tmp_path / name, documents=150, vocabulary=360, seed=seed)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "three")


def test_found_again_and_trained_where_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Path] = []

    def small(folder: Path) -> Any:
        trained.append(folder)
        return train_tokenizer(folder, documents=150, vocabulary=360)

    monkeypatch.setattr("lrt.lab.tokenizer.train_tokenizer", small)
    made = load_or_train_tokenizer(tmp_path / "t")
    found = load_or_train_tokenizer(tmp_path / "t")
    assert trained == [tmp_path / "t"]
    text = "One morning, Mia walked to the barn."
    assert made(text)["input_ids"] == found(text)["input_ids"]
    assert found.chat_template == made.chat_template


def test_round_trip(family_tokenizer: Any) -> None:
    held_out = [p.text for p in itertools.islice(pages(5, "held_out"), 300)]
    for text in [*held_out, "Zoë 🐕 ß ∑\n\t  x", "éÉçÇ"]:
        ids = family_tokenizer(text)["input_ids"]
        assert ids[0] == family_tokenizer.bos_token_id
        assert family_tokenizer.decode(ids[1:]) == text
    assert len(family_tokenizer) < 2**15  # ids are kept in 16 bits


def test_marks_are_tokens_of_their_own(family_tokenizer: Any) -> None:
    page = next(p for p in pages(0, "held_out") if p.plan.kind == "question" and p.answer)
    ids = family_tokenizer(page.text)["input_ids"]
    for mark in ("<|user|>", "<|assistant|>"):
        assert ids.count(family_tokenizer.convert_tokens_to_ids(mark)) == 1
    for letter, mark in OPTIONS.items():  # on offer, and the one that is chosen once more
        chosen = page.parts[1].count(mark)
        assert chosen == (f"({letter})" in page.parts[1])
        assert ids.count(family_tokenizer.convert_tokens_to_ids(mark)) == 1 + chosen


def test_chat_template_writes_what_the_family_was_trained_on(family_tokenizer: Any) -> None:
    page = next(p for p in pages(0, "family") if p.plan.kind == "request")
    text = render_chat(family_tokenizer, *page.parts)
    (ids,) = encode(family_tokenizer, [text])
    trained_on = [*family_tokenizer(page.text)["input_ids"], family_tokenizer.eos_token_id]
    assert ids == trained_on
    assert ids.count(family_tokenizer.bos_token_id) == 1


def test_no_system_role(family_tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(TemplateError):
        family_tokenizer.apply_chat_template(turns, tokenize=False)
