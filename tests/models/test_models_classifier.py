from pathlib import Path

import pytest

from lrt.errors import InvalidValue
from lrt.models import ModelNotLoadable
from lrt.models.classifier import TextClassifier, load_classifier

TEXTS = ["Mia went to the barn.", "No.", "The dog barked and wagged its tail.", "A very long day. " * 30]


def test_probabilities_are_those_of_each_text_alone(classifier_folder: Path) -> None:
    classifier = load_classifier(str(classifier_folder))
    assert classifier.labels == ("ANSWER", "REFUSAL")
    found = classifier.probabilities(TEXTS, "REFUSAL")
    assert len(set(found)) == len(TEXTS)
    other = classifier.probabilities(TEXTS, "ANSWER")
    for one, text in enumerate(TEXTS):
        (alone,) = classifier.probabilities([text], "REFUSAL")
        assert found[one] == pytest.approx(alone, abs=1e-5)
        assert found[one] + other[one] == pytest.approx(1, abs=1e-5)
    assert classifier.probabilities(TEXTS, "REFUSAL", batch=2) == pytest.approx(found, abs=1e-5)
    assert classifier.probabilities([], "REFUSAL") == []
    # the same by hand
    ids = classifier.tokenizer(TEXTS[1], return_tensors="pt")
    by_hand = classifier.model(**ids).logits.softmax(-1)[0, 1]
    assert found[1] == pytest.approx(float(by_hand), abs=1e-5)


def test_it_is_loaded_once(classifier_folder: Path) -> None:
    assert load_classifier(str(classifier_folder)) is load_classifier(str(classifier_folder))
    assert isinstance(load_classifier(str(classifier_folder)), TextClassifier)


def test_a_label_that_it_lacks_and_one_that_is_not_there(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue):
        load_classifier(str(classifier_folder)).probabilities([], "NO")
    with pytest.raises(ModelNotLoadable):
        load_classifier(str(tmp_path))
