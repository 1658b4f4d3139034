"""The text of the map: its parts, what is excluded, and what changes its digest."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from stages import QUESTIONS, STORIES, Stages, corpus
from upstream_files import model_written_folder, text_files, write_rows

from lrt.config.corpus import (
    CorpusSource,
    HubSource,
    JsonlSource,
    QuestionsSource,
    ScenesSource,
    TextSource,
    WordProblemsSource,
)
from lrt.evaluation.stand_in_sets import write_set
from lrt.lab.grammar import ASSISTANT, USER, pages
from lrt.pipeline import CorpusText

Source = Callable[[Path], CorpusSource]


def text_of(stages: Stages) -> CorpusText:
    return CorpusText(stages.corpus, stages.pair, stages.cache, stages.monitor)


def jsonl_rows(folder: Path, chat: bool = False) -> JsonlSource:
    rows = [{"text": f"Once {i}", "prompt": f"Name {i}.", "answer": f"It is {i}."} for i in range(30)]
    path = str(write_rows(folder / "rows.jsonl", rows))
    if chat:
        return JsonlSource(path=path, field="prompt", answer_field="answer", chat=True)
    return JsonlSource(path=path)


SOURCES: dict[str, tuple[Source, str]] = {
    "storybook": (lambda _: STORIES, next(pages(7, "held_out", STORIES.plan)).text),
    "scenes": (lambda _: ScenesSource(seed=1), ""),
    "text": (lambda at: TextSource(paths=text_files(at)), "numéro 0"),
    "capitals": (lambda at: TextSource(paths=text_files(at), case="upper"), "NUMÉRO 0"),
    "jsonl": (jsonl_rows, "Once 0"),
    "chats": (lambda at: jsonl_rows(at, chat=True), f"{USER}Name 0.{ASSISTANT}It is 0."),
    "hub": (
        lambda at: HubSource(path=str(write_rows(at / "set" / "train.jsonl", [{"text": "a row"}]).parent)),
        "a row",
    ),
    "questions": (
        lambda at: QuestionsSource(path=str(model_written_folder(at)), tasks=("boldness",)),
        "number 0",
    ),
    "word problems": (
        lambda at: WordProblemsSource(path=str(write_set("ChilleD/SVAMP", at))),
        "Ann has 0 pears",
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_documents_of_every_kind_of_source(shared: Stages, tmp_path: Path, kind: str) -> None:
    source, words = SOURCES[kind]
    text = text_of(shared.but(corpus=corpus(part=source(tmp_path))))
    document = next(text.documents("part"))
    assert words in document.text
    assert len(document.text) > 3
    assert text.parts == ("part",)


def test_a_problem_in_two_prompts_is_one_for_the_splits(shared: Stages, tmp_path: Path) -> None:
    source = WordProblemsSource(path=str(write_set("ChilleD/SVAMP", tmp_path)))
    text = text_of(shared.but(corpus=corpus(part=source)))
    documents = [*text.documents("part")]
    assert len({document.text for document in documents}) == len(documents) == 400
    assert {*Counter(text.duplicate_groups.values()).values()} == {2}
    # another wording of a prompt is another text, although the set is the same
    other = replace(source, direct="Solve this: {question}")
    assert text_of(shared.but(corpus=corpus(part=other))).digest != text.digest


def test_the_digest_is_read_without_packing(empty: Stages) -> None:
    digest = text_of(empty).digest
    assert digest == text_of(empty).packed.digest
    with mock.patch("lrt.pipeline.corpus.pack", side_effect=AssertionError("packed again")):
        assert text_of(empty).digest == digest


def test_the_corpus_is_packed_by_one_process_and_read_by_the_others(empty: Stages) -> None:
    """Shares of a recording, and runs that evaluate."""
    packed = text_of(empty).packed
    with mock.patch("lrt.pipeline.corpus.pack", side_effect=AssertionError("packed again")):
        again = text_of(empty).packed
    assert again.digest == packed.digest
    assert again.groups == packed.groups
    assert again.documents_excluded == packed.documents_excluded


@pytest.mark.slow
def test_what_decides_the_text(empty: Stages, tmp_path: Path) -> None:
    digest = text_of(empty).digest

    def changed(**sources: CorpusSource) -> bool:
        return text_of(empty.but(corpus=corpus(**sources))).digest != digest

    assert not changed(stories=replace(STORIES, repeat=2), questions=replace(QUESTIONS, rows="tokens"))
    assert not changed(stories=replace(STORIES, fit_map_for=("bravery",)), questions=QUESTIONS)
    # this tokenizer closes documents, and those of such a part are left open
    assert changed(stories=replace(STORIES, rows="last_tokens"), questions=QUESTIONS)
    assert changed(stories=replace(STORIES, weight=2.0), questions=QUESTIONS)
    assert changed(stories=replace(STORIES, seed=8), questions=QUESTIONS)
    assert text_of(empty.but(corpus=replace(empty.corpus, seed=1))).digest != digest
    # of files the content counts, and not the place
    here, there = jsonl_rows(tmp_path / "here"), jsonl_rows(tmp_path / "there")
    small = {"train": 256, "held_out": 64, "context": 32}
    one, other = (
        text_of(empty.but(corpus=corpus(rows=rows, story=STORIES, **small))) for rows in (here, there)
    )
    files = empty.files("corpora")
    assert one.digest == other.digest
    assert len(empty.files("corpora")) == len(files) + 1


def test_both_answers_to_a_question_are_one_group(shared: Stages, tmp_path: Path) -> None:
    asked = QuestionsSource(path=str(model_written_folder(tmp_path)), tasks=("boldness",))
    text = text_of(shared.but(corpus=corpus(asked=asked, stories=STORIES)))
    assert set(Counter(text.duplicate_groups.values()).values()) == {2}
    assert text_of(shared).duplicate_groups == {}


def test_the_chat_template_is_part_of_the_text_where_it_writes_any(empty: Stages, tmp_path: Path) -> None:
    rows = {"plain": jsonl_rows(tmp_path), "chat": jsonl_rows(tmp_path, chat=True)}
    names: dict[str, set[str]] = {}
    for name, source in rows.items():
        small = corpus(rows=source, stories=STORIES, train=256, held_out=64, context=32)
        for ending in ("", " "):
            template = empty.pair.template
            assert template.chat_template is not None
            changed = replace(template, chat_template=template.chat_template + ending)
            pair = replace(empty.pair, template=changed)
            before = set(empty.files("corpora"))
            _ = text_of(empty.but(corpus=small, pair=pair)).digest
            names.setdefault(name, set()).update(p.name for p in set(empty.files("corpora")) - before)
    assert {name: len(files) for name, files in names.items()} == {"plain": 1, "chat": 2}
    assert all("digest" in json.loads(file.read_text())["result"] for file in empty.files("corpora"))
