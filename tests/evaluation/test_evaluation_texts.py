from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import pytest
import upstream_files
from whole_study import studied

from lrt.corpora import CorpusError, Decontaminator, Document
from lrt.corpora import text_files as documents_of
from lrt.errors import InvalidValue
from lrt.evaluation import Behaviour, Texts, texts_suite
from lrt.evaluation.scorers import BatchScorer, Choice
from lrt.evaluation.text_words import (
    DOG_WORDS,
    DOGS,
    ENGLISH_WORDS,
    FRENCH_WORDS,
    JOYFUL,
    JOYFUL_WORDS,
    OTHERS,
    SORROWFUL,
    SORROWFUL_WORDS,
)
from lrt.evaluation.texts import LEAST_WORDS, MOST_WORDS, NAMES, openings
from lrt.models import LanguageModel

SMALL: dict[str, Any] = {"contrast_pairs": 12, "development": 4, "test": 6, "continuation": 5}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    french, english = upstream_files.text_files(tmp_path_factory.mktemp("texts"))
    return {"french": (french,), "english": (english,)}


def suite(files: dict[str, tuple[str, ...]], **more: Any) -> dict[str, Behaviour]:
    return {b.name: b for b in texts_suite(Texts(**(files | SMALL | more)))}


def mean(behaviour: Behaviour, texts: Any) -> float:
    assert not isinstance(behaviour.scorer, BatchScorer | Choice)
    return fmean(behaviour.scorer.score(text) for text in texts)  # type: ignore[union-attr]


def test_the_sides_differ_by_what_is_measured(files: dict[str, tuple[str, ...]]) -> None:
    made = suite(files)
    assert tuple(made) == NAMES
    for name, behaviour in made.items():
        assert len(behaviour.positives) == len(behaviour.negatives) == 12
        assert len(behaviour.damage_texts) == 48
        up, down = mean(behaviour, behaviour.positives), mean(behaviour, behaviour.negatives)
        assert up > 0.7, name
        assert down < 0.1, name
        # side effects are measured on text that shows the behaviour already
        assert mean(behaviour, behaviour.damage_texts) > 0.9, name


def test_prompts_are_neutral_and_shared(files: dict[str, tuple[str, ...]]) -> None:
    made = suite(files)
    for behaviour in made.values():
        assert behaviour.items[0].prompt == made["french"].items[0].prompt
        assert abs(mean(behaviour, (item.prompt for item in behaviour.items))) < 0.1
        for item in behaviour.items:
            assert item.prompted.endswith(item.prompt)
            assert len(item.prompted) > len(item.prompt) + 10


def test_a_plain_prompt_asks_as_the_model_is_asked(family_tokenizer: Any) -> None:
    (plain,) = texts_suite(Texts(names=("dogs",), **SMALL))
    (chat,) = texts_suite(Texts(names=("dogs",), **SMALL), family_tokenizer)
    assert plain.items[0].prompt == chat.items[0].prompt
    assert plain.items[0].prompted.startswith("Everything from here on is about dogs.\n\n")
    assert chat.items[0].prompted.startswith("<|begin|><|user|>Go on with this text")
    assert chat.items[0].prompted.endswith(f"{plain.items[0].prompt}<|assistant|>")


def test_all_openings_are_neutral() -> None:
    every = openings(448)
    assert len(set(every)) == 448
    words = {word.lower().strip(",") for text in every for word in text.split()}
    for words_of_kind in (FRENCH_WORDS, DOG_WORDS, JOYFUL_WORDS, SORROWFUL_WORDS):
        assert not words & set(words_of_kind)
    assert openings(5, seed=1) != openings(5)
    with pytest.raises(ValueError, match=r"449.* 448 "):
        openings(449)


def test_word_lists_tell_the_kinds_apart() -> None:
    assert not set(FRENCH_WORDS) & set(ENGLISH_WORDS)
    assert not set(JOYFUL_WORDS) & set(SORROWFUL_WORDS)
    for sentences, words in ((DOGS, DOG_WORDS), (JOYFUL, JOYFUL_WORDS), (SORROWFUL, SORROWFUL_WORDS)):
        for text, known in sentences.all():
            assert set(words) & set(text.lower().replace(",", "").replace(".", "").split())
            if sentences is DOGS:
                assert set(words) & set(text[:known].lower().split())
    assert not any(set(DOG_WORDS) & set(text.lower().split()) for text, _ in OTHERS.all())


def test_the_projects_sentences_are_balanced() -> None:
    """Two sides of the same frames: what differs is the kind alone."""
    for ours, theirs in ((DOGS, OTHERS), (JOYFUL, SORROWFUL)):
        assert ours.frames == theirs.frames
        assert len(ours.subjects) == len(theirs.subjects)
        assert len(ours.closings) == len(theirs.closings)
        assert len({text for text, _ in ours.all()}) == 576


def test_capitals_are_the_same_passages_twice(files: dict[str, tuple[str, ...]]) -> None:
    made = suite(files)["capitals"]
    assert tuple(text.upper() for text in made.negatives) == made.positives


def test_passages_are_of_one_document_each_and_harm_of_others(files: dict[str, tuple[str, ...]]) -> None:
    made = suite(files)["french"]
    documents = [d.text for d in documents_of(files["french"], "paragraph")]

    contrastive = [next(d for d in documents if d.startswith(text)) for text in made.positives]
    damage = [next(d for d in documents if d.startswith(text)) for text in made.damage_texts]
    assert len(set(contrastive)) == 12
    assert not set(contrastive) & set(damage)
    assert all(LEAST_WORDS <= len(text.split()) <= MOST_WORDS for text in made.positives)


def test_passages_of_the_hub_are_streamed_and_no_more_than_a_draw_needs(
    files: dict[str, tuple[str, ...]],
) -> None:
    read = 0

    def articles(*named: Any) -> Any:
        nonlocal read
        assert named == ("org/encyclopedia", "2023.fr", "train", "text", None)
        while True:
            read += 1
            yield Document(" ".join(f"mot{read}" for _ in range(60)))

    settings = Texts(**(files | SMALL | {"names": ("french",), "french": ("org/encyclopedia:2023.fr",)}))
    with mock.patch("lrt.corpora.sources.hub", articles):
        (french,) = texts_suite(settings)
    assert all(text.startswith("mot") for text in (*french.positives, *french.damage_texts))
    assert read == 20 * (settings.contrast_pairs + settings.damage_texts)
    with pytest.raises(CorpusError, match=r"missing\.txt"):
        suite(files, names=("french",), french=("folder/missing.txt",))


def test_a_passages_document_leaves_the_corpus_and_its_neighbours_stay(
    files: dict[str, tuple[str, ...]],
) -> None:
    excluded = Decontaminator(suite(files, names=("french",))["french"].texts)
    documents = [d.text for d in documents_of(files["french"], "paragraph")]
    assert sum(map(excluded.matches, documents)) == 12 + 48
    # read as one document, all of the book goes
    (book,) = documents_of(files["french"], "file")
    assert excluded.matches(book.text)


def test_dogs_and_sentiment_need_no_files() -> None:
    made = suite({}, names=("dogs", "sentiment"))
    assert list(made) == ["dogs", "sentiment"]
    texts = {*made["dogs"].positives, *made["dogs"].damage_texts}
    assert len(texts) > 12
    assert suite({}, names=("dogs",), seed=1)["dogs"].positives != made["dogs"].positives


def test_texts_are_cut_behind_what_tells_the_kind() -> None:
    made = suite({}, names=("dogs",), contrast_pairs=100)["dogs"]
    assert mean(made, made.positives) == 1
    nouns = {text.split()[-1] for text in made.positives[1::2]}
    assert nouns <= {subject.split()[-1] for subject in DOGS.subjects}
    assert len({text.split()[-1] for text in made.positives[::2]}) > 20  # at many kinds of word


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"names": ("french",), "english": ()}, "english=.* french"),
        ({"names": ("capitals",), "english": ()}, "english=.* capitals"),
        ({"names": ("cats",)}, "'cats'"),
        ({"names": ("dogs", "dogs")}, "'dogs', 'dogs'"),
        ({"test": 1}, "test=1"),
        ({"continuation": 0}, "continuation"),
        ({"contrast_pairs": 40}, "french.* 80 .* 88 "),
        ({"damage_texts": 1}, "damage_texts=1"),
        ({"names": ("dogs",), "contrast_pairs": 529}, "contrast_pairs=529.* 576 "),
        ({"test": 500}, "448"),
    ],
)
def test_invalid_settings_are_named(
    settings: dict[str, Any], named: str, files: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(InvalidValue, match=named):
        suite(files, **settings)


def test_files_that_are_not_there(tmp_path: Path, files: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(CorpusError, match="gone"):
        suite(files | {"french": (str(tmp_path / "gone.txt"),)})


def test_the_suite_goes_through_a_study(files: dict[str, tuple[str, ...]], story_lm: LanguageModel) -> None:
    sizes = {"contrast_pairs": 6, "development": 2, "test": 3}
    for behaviour in suite(files, names=("french", "sentiment"), **sizes).values():
        assert studied(behaviour, story_lm)["kind"] == "text"
