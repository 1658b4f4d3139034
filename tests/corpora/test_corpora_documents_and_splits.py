import hashlib
from collections import Counter

import pytest

from lrt.corpora import Document, split_of, text_id


def test_id_is_the_first_63_bits_of_the_sha256() -> None:
    bits = hashlib.sha256("à la carte".encode()).hexdigest()
    assert text_id("à la carte") == int(bits, 16) >> (256 - 63)


def test_id_depends_on_the_text_and_not_on_the_source() -> None:
    assert Document("a", "x").id == Document("a", "y").id
    assert Document("a").id != Document("b").id
    assert 0 <= Document("a").id < 2**63


def test_splits_have_their_shares_and_another_seed_draws_another_partition() -> None:
    ids = [text_id(str(i)) for i in range(4000)]
    shares = Counter(split_of(i) for i in ids)
    # four standard deviations of a binomial share at 4000 draws are at most .03
    assert shares["train"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert shares["validation"] / 4000 == pytest.approx(0.1, abs=0.03)
    assert [split_of(i) for i in ids] == [split_of(i) for i in ids]
    assert any(split_of(i, seed=0) != split_of(i, seed=1) for i in ids)


def test_near_duplicates_share_a_split_and_other_documents_have_their_own() -> None:
    one, other = Document("a", duplicate_group="q"), Document("b", duplicate_group="q")
    assert one.duplicate_group_id == other.duplicate_group_id
    assert Document("a").duplicate_group_id == Document("a").id
