"""A figure inside the page: SVG that follows the page's colours and font."""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.figure import Figure

from lrt.report.palette import LIGHT


def inline_svg(figure: Figure, name: str) -> str:
    """`figure`, drawn in the light palette, as an `<svg>` element.

    Its colours become the page's CSS variables `--fig-<role>`, so that one drawing serves light and dark.
    Text stays text. `name` prefixes the ids: a page has many drawings.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page sets the size; the view box keeps the proportions
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    text = f'{head} aria-hidden="true">{rest}'
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for role, colour in LIGHT.roles().items():
        text = text.replace(colour, f"var(--fig-{role.replace('_', '-')})")
    text = re.sub(r"font: ([\d.]+px) [^;\"<]*", r"font: \1 var(--sans)", text)
    return re.sub(r"font-family: [^;\"<]*", "font-family: var(--sans)", text)
