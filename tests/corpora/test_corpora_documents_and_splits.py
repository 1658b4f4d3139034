import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.corpora import Document, split_of, text_id


def test_id_is_the_first_63_bits_of_the_sha256() -> None:
    bits = hashlib.sha256("à la carte".encode()).hexdigest()
    assert text_id("à la carte") == int(bits, 16) >> (256 - 63)


def test_id_depends_on_the_text_and_not_on_the_group() -> None:
    assert Document("a", "x").id == Document("a", "y").id
    assert Document("a").id != Document("b").id
    assert 0 <= Document("a").id < 2**63


@given(st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_split_is_a_function_of_id_and_seed(document_id: int, seed: int) -> None:
    assert split_of(document_id, seed=seed) == split_of(document_id, seed=seed)


def test_splits_have_their_shares_and_another_seed_draws_another_partition() -> None:
    ids = [text_id(str(i)) for i in range(4000)]
    shares = Counter(split_of(i, (0.7, 0.2, 0.1)) for i in ids)
    # four standard deviations of a binomial share at 4000 draws are at most .03
    assert shares["train"] / 4000 == pytest.approx(0.7, abs=0.03)
    assert shares["validation"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert any(split_of(i, seed=0) != split_of(i, seed=1) for i in ids)


def test_growing_train_moves_no_document_out_of_it() -> None:
    ids = [text_id(str(i)) for i in range(500)]
    small = {i for i in ids if split_of(i, (0.5, 0.25, 0.25)) == "train"}
    large = {i for i in ids if split_of(i, (0.8, 0.1, 0.1)) == "train"}
    assert small < large


def test_a_share_of_zero_stays_empty() -> None:
    ids = [text_id(str(i)) for i in range(300)]
    assert {split_of(i, (0.5, 0.0, 0.5)) for i in ids} == {"train", "test"}
    assert {split_of(i, (1.0, 0.0, 0.0)) for i in ids} == {"train"}


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_fractions_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"fractions is .* sum to 1"):
        split_of(1, fractions)
