from __future__ import annotations

import hashlib
import re
from itertools import islice

from lrt.corpora import Decontaminator, scenes
from lrt.corpora.scenes import FRAMES, IT, MOODS, SUBJECTS
from lrt.evaluation import Texts
from lrt.evaluation.text_words import DOGS, JOYFUL, OTHERS, SORROWFUL
from lrt.evaluation.texts import texts_suite

SOME = list(islice(scenes(), 3000))


def test_no_two_are_alike_and_a_seed_is_an_order() -> None:
    assert len({scene.text for scene in SOME}) == len(SOME)
    assert list(islice(scenes(source="part"), 50)) != SOME[:50]
    assert [scene.text for scene in islice(scenes(source="part"), 50)] == [s.text for s in SOME[:50]]
    assert {scene.source for scene in islice(scenes(source="part"), 50)} == {"part"}
    assert len({s.text for s in islice(scenes(1), 200)} & {s.text for s in SOME}) < 20


def test_the_words_of_the_scenes_are_fixed() -> None:
    """Every figure of a corpus with scenes depends on them."""
    text = "\n".join(scene.text for scene in SOME)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "c58457e5cf3479967a0fd934969713c0d4865e34ee4ccc85f4d1f490141946f1"


def test_every_subject_and_every_mood_occurs() -> None:
    for kind in (*SUBJECTS, *MOODS):
        counts = [sum(f" {text}" in scene.text for scene in SOME) for text in (*kind.words, *kind.sentences)]
        assert min(counts) > 0
    dogs = sum(any(f" {dog} " in scene.text for dog in SUBJECTS[0].words) for scene in SOME)
    assert 0.07 < dogs / len(SOME) < 0.1  # a tenth of 2/3 + 1/6


def test_no_word_that_distinguishes_a_contrast() -> None:
    ours = set(" ".join(word for kind in (*SUBJECTS, *MOODS) for word in kind.words).lower().split())
    theirs = (
        " ".join(words for side in (DOGS, OTHERS, JOYFUL, SORROWFUL) for words in side.subjects)
        .lower()
        .split()
    )
    assert ours & set(theirs) <= {"a", "an", "dog", "great"}  # a Great Dane


def test_sentences_are_whole() -> None:
    assert all("{" not in scene.text for scene in SOME)
    for scene in SOME[:200]:
        assert re.fullmatch(r"([A-Z][^.?]+[.?] ?){2,7}", scene.text), scene.text
        assert 5 < len(scene.text.split()) < 100


def test_no_sentence_is_one_of_a_contrast() -> None:
    suite = texts_suite(Texts(names=("dogs", "sentiment")))
    contrast = [text for behaviour in suite for text in (*behaviour.positives, *behaviour.negatives)]
    sentences = {s for text in contrast for s in re.split(r"(?<=[.?]) ", text) if len(s.split()) > 4}
    ours = {s for kind in (*SUBJECTS, *MOODS) for s in kind.sentences} | {*FRAMES, *IT}
    assert not sentences & ours
    assert len(sentences) > 40
    listed = Decontaminator(text for behaviour in suite for text in behaviour.texts)
    assert not any(listed.matches(scene.text) for scene in SOME)
