from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.report.numerals import (
    count,
    duration,
    figure,
    format_layers,
    interval,
    layer_label,
    leading_number,
    score,
    share,
    share_interval,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.000"),
        (0.4123, "0.412"),
        (-1.239, "−1.24"),
        (31.62, "31.6"),
        (1234.5, "1,234"),
        (298_112, "298,112"),
        (0.00002, "2.0e−05"),
    ],
)
def test_figures_keep_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.954, "95%"),
        (0.0123, "1.2%"),
        (0.0995, "10%"),
        (-0.001, "−0.1%"),
        (-0.0004, "0%"),
        (12.5, "1,250%"),
    ],
)
def test_shares_are_percent(value: float | None, text: str) -> None:
    assert share(value) == text


def test_intervals_counts_and_durations() -> None:
    assert share_interval([0.88, 1.03]) == "88 to 103%"
    assert share_interval([-0.05, 0.2]) == "−5 to 20%"
    assert share_interval(None) == "–"
    assert interval([0.123, -1.5]) == "0.12 to −1.50"
    assert interval([None, None]) == "–"
    assert score(-0.001) == "0.00"
    assert [f(None) for f in (score, count, duration)] == ["–"] * 3
    assert [count(n) for n in (96, 640_000, 3_100_000, 42e6)] == ["96", "640k", "3.1M", "42M"]
    assert [duration(s) for s in (2.21, 61.2, 359.6, 8000)] == [
        "2.2 s",
        "61 s",
        "6 min 00 s",
        "2 h 13 min",
    ]


def test_layers() -> None:
    assert format_layers([3]) == "layer 3"
    assert format_layers([0, 2]) == "layers 0, 2"
    assert [layer_label(layers) for layers in ([3], [0, 0.5], "auto", 7, None)] == [
        3,
        "0+0.5",
        "auto",
        7,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("88 to 97%", 88.0),
        ("−0.12 to 0.45", -0.12),
        ("9.5%", 0.095),
        ("below 30%", 0.3),
        ("≥ 64", 64.0),
        ("1,234", 1234.0),
        ("3.1M", 3.1e6),
        ("2.2e−05", 2.2e-5),
        ("5 of 6", 5.0),
        ("layer 3", None),
        ("–", None),
        ("", None),
        ("27b", None),
    ],
)
def test_the_number_that_a_text_begins_with(text: str, value: float | None) -> None:
    assert leading_number(text) == (None if value is None else pytest.approx(value))


@given(st.floats(-1e9, 1e9))
def test_shown_numbers_are_read_back_in_their_order(value: float) -> None:
    for shown in (figure(value), score(value), share(value)):
        read = leading_number(shown)
        assert read is not None
        assert read == pytest.approx(value, rel=0.06, abs=0.006)
