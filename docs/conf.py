"""The documentation site (`make docs`). Reference pages are generated from the code."""

from pathlib import Path

from studies.reference import write_pages

project = "lrt"
author = "the lrt authors"
copyright = "the lrt authors, Apache-2.0"

write_pages(Path(__file__).parent / "reference")

extensions = ["myst_parser"]
myst_heading_anchors = 4  # links to headings, as on the code host
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lrt"
html_show_sphinx = False
