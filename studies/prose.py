"""How the project's pages read, in figures, and the words that it does not use.

python -m studies.prose           # a table of every page
python -m studies.prose --check   # every unwanted word, with the word to use; status 1 if there is any
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import textstat

from lrt.report.table import Cell, Table

ROOT = Path(__file__).parents[1]
SOURCES = ("lrt", "conf", "docs", "studies", "benchmarks", "README.md", "CHANGELOG.md", "Makefile")
SUFFIXES = {".py", ".yaml", ".md", ".html", ".css", ".js", ""}

# A word by its pattern, and what to write in its place. Case counts: names of code are no prose.
UNWANTED = {
    r"\b[Tt]old\b": "report, log, warn",
    r"\bcarr(y|ied|ies) over\b": "transfer",
    r"\bcarried\b": "transferred",
    r"\bkin\b": "near-duplicate group",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"(?<![Tt]here )\bis none\b": "invalid, must be",
    r"\bfound again\b": "cached, reused",
    r"\bstoreless\b": "without a store",
    r"\byardstick\b": "reference ridge",
    r"\bordinary text": "neutral text",
    r"\bleft out\b": "excluded, skipped",
    r"\blet go\b": "excluded, skipped",
    r"\brandom source\b": "untrained source",
}
# Text that models read or write, templates' tests for None, committed reports, and this list.
ALLOWED = (
    "lrt/lab/",
    "lrt/corpora/scenes.py",
    "lrt/evaluation/neutral_texts.py",
    "lrt/evaluation/texts.py",
    "lrt/report/templates/",
    "studies/prose.py",
    "docs/results/*/report.md",
    "docs/_build/",
    "docs/reference/",
)


@dataclass(frozen=True)
class Reading:
    """How a page of Markdown reads.

    words         In prose: code, tables, images and link targets are not counted.
    paragraph     Words of the longest paragraph or list item.
    sentence      Words of the longest sentence.
    ease          Flesch reading ease: 60 to 70 is plain English, below 30 very hard.
    before        Words before the first code block; None without one.
    """

    words: int
    paragraph: int
    sentence: int
    ease: float
    before: int | None


def read(markdown: str) -> Reading:
    """How a page reads."""
    start = re.search(r"^```", markdown, re.MULTILINE)
    before = sum(len(p.split()) for p in paragraphs(markdown[: start.start()])) if start else None
    every = paragraphs(markdown)
    sentences = [s for p in every for s in re.split(r"(?<=[.!?:])\s+", p)]
    text = " ".join(p if p.endswith((".", ":", "!", "?")) else f"{p}." for p in every)
    return Reading(
        len(text.split()),
        max((len(p.split()) for p in every), default=0),
        max((len(s.split()) for s in sentences), default=0),
        textstat.flesch_reading_ease(text) if text else 0.0,
        before,
    )


def paragraphs(markdown: str) -> list[str]:
    """The paragraphs, list items and headings of a page, as plain text."""
    text = re.sub(r"^```.*?^```", "\n", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\|.*$|^#+ .*$|<[^>]*>", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"[*`]", "", text)
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in parts if part.strip()]


def pages() -> list[Path]:
    """The README and the pages under docs/ that somebody wrote."""
    generated = ("_build", "reference")
    written = [
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "report.md" and page.relative_to(ROOT / "docs").parts[0] not in generated
    ]
    return [ROOT / "README.md", *sorted(written)]


def sources() -> Iterator[Path]:
    """Every file whose words are checked."""
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            inside = file.relative_to(ROOT)
            allowed = any(str(inside).startswith(a) or inside.match(a) for a in ALLOWED)
            if file.is_file() and file.suffix in SUFFIXES and not allowed:
                yield file


def unwanted(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, unwanted word and what to write in its place, for each that is in a text."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, better in UNWANTED.items():
            for match in re.finditer(pattern, line):
                yield number, match.group(), better


def table() -> Table:
    """How every page reads."""
    rows: list[tuple[Cell, ...]] = []
    for page in pages():
        of = read(page.read_text())
        name = str(page.relative_to(ROOT))
        rows.append((name, of.words, of.paragraph, of.sentence, round(of.ease), of.before))
    columns = (
        "page",
        "words",
        "longest paragraph",
        "longest sentence",
        "reading ease",
        "words before a command",
    )
    return Table("How the pages read", columns, tuple(rows), columns)


def main() -> int:
    """Print the table, or with `--check` every unwanted word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print unwanted words, and fail on any")
    if not parser.parse_args().check:
        print(table().markdown())
        return 0
    found = 0
    for file in sources():
        for number, word, better in unwanted(file.read_text()):
            found += 1
            print(f"{file.relative_to(ROOT)}:{number}: `{word}`: write {better}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
