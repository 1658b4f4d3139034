from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.corpora import Document, Part, mixture
from lrt.errors import InvalidValue


def part(name: str, weight: float, length: int, count: int = 10_000) -> Part:
    return Part(name, [Document(f"{name}{i}".ljust(length, ".")) for i in range(count)], weight)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.2, 5), st.integers(10, 300)), min_size=1, max_size=4),
    st.integers(200, 600),
)
def test_every_prefix_holds_the_shares_of_text(parts: list[tuple[float, int]], prefix: int) -> None:
    named = [part(str(i), w, n, count=prefix) for i, (w, n) in enumerate(parts)]
    written: Counter[str] = Counter()
    for document in islice(mixture(named), prefix):
        written[document.source] += len(document.text)
    total_weight = sum(w for w, _ in parts)
    for i, (weight, _) in enumerate(parts):
        target = weight / total_weight * written.total()
        # never further off than the longest documents of all parts together
        assert abs(written[str(i)] - target) <= sum(n for _, n in parts) + 1


def test_order_is_deterministic_and_sources_are_named() -> None:
    once, again = ([*mixture([part("a", 2, 50, 20), part("b", 1, 50, 20)])] for _ in range(2))
    assert once == again
    assert [d.source for d in once[:6]].count("a") == 4


def test_a_part_that_runs_out_leaves_the_rest_to_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        documents = [*mixture([part("a", 1, 50, 2), part("b", 1, 50, 5)])]
    assert Counter(d.source for d in documents) == {"a": 2, "b": 5}
    assert "corpus source a" in caplog.text


def test_no_more_is_read_than_is_taken() -> None:
    read = []

    def endless():
        i = 0
        while True:
            read.append(i)
            yield Document(f"text {i}")
            i += 1

    assert len([*islice(mixture([Part("a", endless())]), 3)]) == 3
    assert len(read) <= 4


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"corpus\.sources"),
        ([part("a", 1, 9, 1), part("a", 1, 9, 1)], r"corpus\.sources"),
        ([part("a", 0, 9, 1)], r"corpus\.sources\.a\.weight=0"),
        ([part("a", float("nan"), 9, 1)], r"corpus\.sources\.a\.weight=nan"),
    ],
)
def test_invalid_mixtures(parts: list[Part], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        mixture(parts)
