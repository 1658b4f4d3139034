"""How pages are read, and the words that the project does not use."""

from studies.prose import ALLOWED, ROOT, pages, paragraphs, read, sources, unwanted

PAGE = """# Title of no sentence

One short sentence. And [a link](far/away.md) of **six** words `here`:

- an item
- another, longer item of seven words

```sh
lrt train  # not counted
```

| a | table |
|---|---|

The last one. It has the longest sentence of the whole page, with twelve words.
"""


def test_a_page_is_read_without_its_code_and_tables() -> None:
    of = read(PAGE)
    assert paragraphs(PAGE)[1:3] == ["an item", "another, longer item of seven words"]
    assert (of.words, of.before) == (33, 18)
    assert (of.paragraph, of.sentence) == (15, 12)
    assert read("No command.").before is None
    easy, hard = (
        "The cat sat on the mat.",
        "Institutional heterogeneity complicates interdisciplinary evaluation.",
    )
    assert read(easy).ease > 90 > 0 > read(hard).ease


def test_unwanted_words_are_found_with_their_line() -> None:
    text = "A vector is transferred.\nOf what it is told, the kin of a document is none of ours.\nx is None"
    assert [(line, word) for line, word, _ in unwanted(text)] == [(2, "told"), (2, "kin"), (2, "is none")]
    assert not [*unwanted("There is none; a carriage; mending_wall; {kind}; untold")]


def test_the_pages_and_sources_are_the_projects_own() -> None:
    assert ROOT / "README.md" in pages()
    assert not [page for page in pages() if page.name == "report.md"]
    checked = {str(file.relative_to(ROOT)) for file in sources()}
    assert {"README.md", "lrt/errors.py", "conf/train.yaml", "docs/lab.md"} <= checked
    assert not [name for name in checked if name.startswith(ALLOWED)]
