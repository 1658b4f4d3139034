"""A table as data, with its renderings for Markdown and the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import rich.table
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lrt.report.numerals import MISSING, figure, leading_number

Cell = str | float | None

NUMBER = re.compile(r"[+−]?[\d.,]+[%kMB]?")
EMPTY = (None, "", MISSING)
READABLE = 16  # characters: shorter cells of a console table are never wrapped, longer ones to no fewer
ALWAYS_SHOWN = 2  # columns: one alone is a list of names
GAP = 2  # spaces between the columns of a console table


@dataclass(frozen=True)
class Table:
    """Named columns over rows of strings, numbers and gaps. Numbers are rounded only when rendered.

    importance  Columns from the most to the least important; the others follow in their own order. In a
                narrow terminal the least important ones are hidden.

    `console.print(table)` fits the table to the console. Every rendering omits columns without a value.
    Raises ValueError for a row of the wrong length, a repeated column name, and an unknown one in
    `importance`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    importance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"table {self.title!r} has two columns of one name: {self.columns}")
        if unknown := [name for name in self.importance if name not in self.columns]:
            raise ValueError(f"table {self.title!r} has no columns {unknown}; its columns are {self.columns}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r} has {len(self.columns)} columns, but a row of {len(row)}: {row}"
                )

    def filled(self) -> Table:
        """The table without columns whose cells are all empty. The first column always stays."""
        if not self.rows:
            return self
        return self._select(
            i for i in range(len(self.columns)) if i == 0 or any(row[i] not in EMPTY for row in self.rows)
        )

    def brief(self) -> Table:
        """The table with the columns of `importance` only."""
        return self._select(i for i, name in enumerate(self.columns) if name in self.importance)

    def fitted(self, width: int) -> Table:
        """The filled table without the least important columns that do not fit `width` characters.

        The two most important columns always stay.
        """
        table = self.filled()
        order = table._by_importance()
        least = [table._least_width(i) for i in range(len(table.columns))]
        count = len(order)
        while count > ALWAYS_SHOWN and sum(least[i] + GAP for i in order[:count]) - GAP > width:
            count -= 1
        return table._select(sorted(order[:count]))

    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as they are shown."""
        return tuple(
            tuple(cell if isinstance(cell, str) else figure(cell) for cell in row) for row in self.rows
        )

    def sort_keys(self) -> tuple[tuple[float | None, ...], ...]:
        """The numbers that cells are sorted by; None where that is the cell's text."""
        return tuple(
            tuple(leading_number(cell) if isinstance(cell, str) else cell for cell in row)
            for row in self.rows
        )

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers or percentages only, and is aligned to the right."""
        cells = [row[column] for row in self.rows if row[column] not in EMPTY]
        return bool(cells) and all(not isinstance(cell, str) or NUMBER.fullmatch(cell) for cell in cells)

    def markdown(self) -> str:
        """A GitHub-flavoured table under a bold title. All text is escaped."""
        table = self.filled()
        rules = ["---:" if table.numeric(i) else "---" for i in range(len(table.columns))]
        header, *body = ([escape_markdown(cell) for cell in line] for line in (table.columns, *table.texts()))
        lines = "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *body))
        return f"**{escape_markdown(self.title)}**\n\n{lines}\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The fitted table, and a line that names the hidden columns."""
        shown = self.fitted(options.max_width)
        grid = rich.table.Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for i, width in enumerate(shown._widths(options.max_width)):
            grid.add_column(
                Text(shown.columns[i]),
                justify="right" if shown.numeric(i) else "left",
                width=width,
                overflow="ellipsis",
            )
        for row in shown.texts():
            # Text: brackets in a cell are not rich's markup
            grid.add_row(*(Text(one_line(cell)) for cell in row))
        yield Text(one_line(self.title), style="bold", overflow="ellipsis")
        yield grid
        hidden = [column for column in self.filled().columns if column not in shown.columns]
        if hidden:
            message = f"Hidden at this width (see the report): {'; '.join(hidden)}."
            yield Text(message, style="dim", overflow="ellipsis")
        yield ""

    def _select(self, indices: Iterable[int]) -> Table:
        keep = tuple(indices)
        columns = tuple(self.columns[i] for i in keep)
        return Table(
            self.title,
            columns,
            tuple(tuple(row[i] for i in keep) for row in self.rows),
            tuple(name for name in self.importance if name in columns),
        )

    def _by_importance(self) -> list[int]:
        names = dict.fromkeys((*self.importance, *self.columns))
        return [self.columns.index(name) for name in names]

    def _cells(self, column: int) -> list[str]:
        return [one_line(row[column]) for row in self.texts()]

    def _longest_word(self, column: int) -> int:
        texts = (self.columns[column], *self._cells(column))
        return max((cell_len(word) for text in texts for word in text.split()), default=1)

    def _least_width(self, column: int) -> int:
        """Characters below which a word would break, or a long cell wrap to fewer than `READABLE`."""
        longest_cell = max(map(cell_len, self._cells(column)), default=0)
        return max(min(longest_cell, READABLE), self._longest_word(column))

    def _widths(self, total: int) -> list[int]:
        """A width for every column, together at most `total`."""
        columns = range(len(self.columns))
        widths = [self._least_width(i) for i in columns]
        words = [self._longest_word(i) for i in columns]
        spare = total - sum(widths) - GAP * (len(widths) - 1)
        while spare < 0 and max(widths) > 1:
            # the columns that always stay are too wide: wrap more, and only then cut words
            narrowed = max(columns, key=lambda i: (widths[i] > words[i], widths[i]))
            widths[narrowed] -= 1
            spare += 1
        # whole cells first, then whole names of columns
        for texts in (self._cells, lambda i: [self.columns[i]]):
            for i in self._by_importance():
                more = max(map(cell_len, texts(i)), default=0) - widths[i]
                if more > 0 and spare > 0:
                    widths[i] += min(more, spare)
                    spare -= min(more, spare)
        return widths


def one_line(text: str) -> str:
    """`text` on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_markdown(text: str) -> str:
    """`text` as Markdown that shows it as it is, on one line: no HTML, link, emphasis or column break."""
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, entity)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", one_line(text))
