from __future__ import annotations

import io

import pytest
from rich.console import Console

from lrt.report import Table

TABLE = Table("A table", ("name", "value"), (("pipe | [bold]x[/] <b>", 0.5), ("gap", None)))


def test_markdown_escapes_and_aligns() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "**A table**"
    assert lines[3] == "| --- | ---: |"
    assert lines[4] == "| pipe \\| [bold]x[/] &lt;b> | 0.500 |"
    assert lines[5] == "| gap | – |"


def test_the_terminal_shows_brackets_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(TABLE.rich())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/]" in shown
    assert "0.500" in shown


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", ("a", "b"), (("x",),))
