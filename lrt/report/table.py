"""A table as data, and its two plain renderings."""

from __future__ import annotations

from dataclasses import dataclass

import rich.table
from rich.text import Text

from lrt.report.numerals import figure

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows of strings, numbers and gaps. Numbers are kept whole and rounded when shown.

    Raises ValueError where a row has not as many cells as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has {len(self.columns)} columns, but a row of {len(row)} cells: {row}"
                )

    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as they are shown."""
        return tuple(
            tuple(cell if isinstance(cell, str) else figure(cell) for cell in row) for row in self.rows
        )

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and is set to the right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and not any(isinstance(cell, str) for cell in cells)

    def markdown(self) -> str:
        """A GitHub-flavoured table under a bold title."""
        rules = ["---:" if self.numeric(i) else "---" for i in range(len(self.columns))]
        lines = [self.columns, rules, *self.texts()]
        body = "\n".join(f"| {' | '.join(_markdown(cell) for cell in line)} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"

    def rich(self) -> rich.table.Table:
        """For the terminal."""
        table = rich.table.Table(title=self.title, title_justify="left")
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if self.numeric(i) else "left")
        for row in self.texts():
            # Text: brackets in a cell are not rich's markup
            table.add_row(*(Text(cell) for cell in row))
        return table


def _markdown(cell: str) -> str:
    for mark, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`")):
        cell = cell.replace(mark, safe)
    return " ".join(cell.split())
