"""Rendering of the page templates. Every string put into a page is escaped."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from lrt.report import numerals
from lrt.report.palette import DARK, LIGHT, Palette, behaviour_name, condition_name


def render(template: str, **context: Any) -> str:
    """`template` filled in. Strings are escaped, but for our own drawings through the `svg` filter.

    Raises jinja2.UndefinedError for a name that `context` lacks.
    """
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lrt.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numerals.figure,
        "score": numerals.score,
        "share": numerals.share,
        "share_interval": numerals.share_interval,
        "count": numerals.count,
        "duration": numerals.duration,
        "leading_number": numerals.leading_number,
        "behaviour": behaviour_name,
        "condition": condition_name,
        "svg": Markup,
    }
    script = (files("lrt.report") / "templates" / "page.js").read_text(encoding="utf-8")
    environment.globals["script"] = Markup(script)
    environment.globals["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["light"] = _variables(LIGHT)
    environment.globals["dark"] = _variables(DARK)
    return environment


def _variables(palette: Palette) -> str:
    return "".join(f"--fig-{role.replace('_', '-')}:{colour};" for role, colour in palette.roles().items())
