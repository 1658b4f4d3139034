from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lrt.report import Table

WIDTHS = (40, 60, 80, 100, 200)
WORDS = st.text("abcdefgh-%é", min_size=1, max_size=9)
CELLS = st.one_of(
    st.none(),
    st.just("–"),
    st.integers(-9999, 10**7),
    st.floats(-1e6, 1e6),
    st.lists(WORDS, max_size=12).map(" ".join),
)


@st.composite
def tables(draw: Any) -> Table:
    count = draw(st.integers(2, 14))
    columns = [f"c{i} {' '.join(draw(st.lists(WORDS, max_size=3)))}".strip() for i in range(count)]
    rows = draw(st.lists(st.tuples(*[CELLS] * count), min_size=1, max_size=4))
    importance = draw(st.permutations(columns))[: draw(st.integers(0, count))]
    return Table("A title", tuple(columns), tuple(rows), tuple(importance))


def shown(table: Table, width: int | None) -> str:
    """What a console prints that is no terminal."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@settings(deadline=None, max_examples=60)
@given(table=tables(), width=st.sampled_from(WIDTHS))
def test_a_console_table_fits_and_names_what_it_hides(table: Table, width: int) -> None:
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width
    visible = table.fitted(width).columns
    filled = table.filled().columns
    order = [name for name in dict.fromkeys((*table.importance, *table.columns)) if name in filled]
    # the most important columns, in their own order
    assert visible == tuple(name for name in filled if name in order[: len(visible)])
    assert set(order[:2]) <= set(visible)
    flat = re.sub(r"\s+", " ", text)
    hidden = [name for name in filled if name not in visible]
    assert all(re.sub(r"\s+", " ", name) in flat for name in hidden)
    # no word is cut: these always fit in two columns of the narrowest console
    cells = (*visible, *(cell for row in table.fitted(width).texts() for cell in row))
    assert all(word in text for cell in cells for word in cell.split())
    assert "…" not in text


@given(table=tables())
@example(Table("t", ("a", "b"), ()))
def test_columns_without_a_value_are_dropped_everywhere(table: Table) -> None:
    filled = table.filled()
    for name, cells in zip(table.columns, zip(*table.rows, strict=True), strict=False):
        empty = all(cell in (None, "", "–") for cell in cells)
        assert (name in filled.columns) == (not empty or name == table.columns[0])
    header = table.markdown().splitlines()[2]
    assert header.count("|") == len(filled.columns) + 1


def test_words_too_long_for_two_columns_end_in_an_ellipsis() -> None:
    text = shown(Table("t", ("name", "path"), (("x" * 50, "y" * 50),)), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("…") == 2


def test_without_a_terminal_a_table_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = Table("t", tuple(f"column {i}" for i in range(30)), ((1.0,) * 30,))
    assert max(map(len, shown(wide, None).splitlines())) <= 80


def test_brief_has_the_important_columns_in_their_own_order() -> None:
    table = Table("t", ("a", "b", "c"), ((1, 2, 3),), ("c", "a"))
    assert table.brief().columns == ("a", "c")
    assert table.brief().rows == ((1, 3),)


def test_text_is_shown_as_it_is() -> None:
    cell = "pipe | [bold]x[/] <b>`a`</b> *e* [l](u)\n&lt; \x1b[31m"
    table = Table("<i>", ("name", "value"), ((cell, 0.5), ("gap", None)))
    lines = table.markdown().splitlines()
    assert lines[0] == "**&lt;i&gt;**"
    assert lines[3:] == [
        "| --- | ---: |",
        r"| pipe \| \[bold\]x\[/\] &lt;b&gt;\`a\`&lt;/b&gt; \*e\* \[l\](u) &amp;lt; \[31m | 0.500 |",
        "| gap | – |",
    ]
    text = shown(table, 100)
    assert "pipe | [bold]x[/] <b>`a`</b> *e* [l](u) &lt; [31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        ((1, None), True),
        (("12%", "–"), True),
        (("1.5B", 2.0), True),
        (("1 to 2%", 1), False),
        ((None,), False),
    ],
)
def test_numbers_are_aligned_to_the_right(cells: tuple[Any, ...], right: bool) -> None:
    assert Table("t", ("a",), tuple((cell,) for cell in cells)).numeric(0) is right


@pytest.mark.parametrize(
    ("columns", "rows", "importance"),
    [(("a", "b"), (("x",),), ()), (("a", "a"), (), ()), (("a", "b"), (), ("c",))],
)
def test_a_table_that_does_not_fit_together_is_refused(columns: Any, rows: Any, importance: Any) -> None:
    with pytest.raises(ValueError, match="table 't'"):
        Table("t", columns, rows, importance)
