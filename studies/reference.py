"""Reference pages of the documentation, generated from the code: commands, settings, library.

python -m studies.reference FOLDER
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

import lrt
from lrt.cli.composing import compose_config
from lrt.config import Config
from lrt.report.table import escape_markdown

ROOT = Path(__file__).parents[1]
LONGEST_DEFAULT = 30  # characters
ENTRY = re.compile(r"^(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*)(?:  +|$)(?P<meaning>.*)$")


def write_pages(folder: Path) -> None:
    """Write every page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in (("commands", commands), ("settings", settings), ("api", api)):
        (folder / f"{name}.md").write_text(page())


# -- commands ------------------------------------------------------------------------------------------


def commands() -> str:
    """`--help` of every command."""
    run = [sys.executable, "-m", "typer", "lrt.cli.app", "utils", "docs", "--name", "lrt"]
    text = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # examples are indented lines of the help
    text = re.sub(r"^Examples?:\n((?:  .*\n)+)", _example, text, flags=re.MULTILINE)
    return "# Commands\n\nWhat `--help` prints. Shell completion: `lrt --install-completion`.\n\n" + (
        text.partition("\n")[2].replace("```console\n$ ", "```console\n$ ")
    )


def _example(match: re.Match[str]) -> str:
    lines = "\n".join(line.strip() for line in match[1].splitlines())
    return f"Examples:\n\n```console\n{lines}\n```\n"


# -- settings ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key of the config.

    kind     Its type, for people.
    default  In conf/train.yaml with its default groups; None where another group or suite has it.
    meaning  From the docstring of its section.
    """

    key: str
    kind: str
    default: str | None
    meaning: str


def settings() -> str:
    """Every key of the config: type, default and meaning."""
    defaults = OmegaConf.to_container(compose_config("train"), resolve=False)
    assert isinstance(defaults, dict)
    lines = [
        "# Settings",
        "",
        "Every key of `conf/train.yaml` and its groups. `lrt train KEY=VALUE` sets one. Defaults are those "
        "of `lrt train`; a key without one belongs to another choice of its group.",
        "",
    ]
    section = ""
    for each in every_setting(Config, "", defaults):
        top = each.key.partition(".")[0] if "." in each.key else "top level"
        if top != section:
            section = top
            lines += ["", f"## {top}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        cells = (f"`{each.key}`", each.kind, f"`{each.default}`" if each.default else "", each.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def every_setting(section: type, prefix: str, defaults: Any) -> Iterator[Setting]:
    """The keys of a section and of those within it; plain keys first."""
    hints = get_type_hints(section, include_extras=True)
    meanings = described(section)
    nested = []
    for field in dataclasses.fields(section):
        key, kind = f"{prefix}{field.name}", hints[field.name]
        default = defaults.get(field.name, dataclasses.MISSING) if isinstance(defaults, Mapping) else defaults
        if choices := sections_of(kind):
            nested.append((key, choices, default))
        else:
            yield Setting(key, kind_of(kind), _shown(default), meanings.get(field.name, ""))
    for key, choices, default in nested:
        for choice in choices:
            chosen = default
            if len(choices) > 1 and isinstance(default, Mapping):
                names = get_args(get_type_hints(choice).get("kind", Literal[""]))
                chosen = default if default.get("kind") in names else {}
            yield from every_setting(choice, f"{key}.", chosen)


def sections_of(kind: Any) -> list[type]:
    """The dataclasses that a key of this type may hold; none for a plain value."""
    if get_origin(kind) is Annotated:
        return sections_of(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return list(dict.fromkeys(each for part in get_args(kind) for each in sections_of(part)))
    return [kind] if dataclasses.is_dataclass(kind) and isinstance(kind, type) else []


def kind_of(kind: Any) -> str:
    """A type for people: `whole number`, `list of text`, `a or b`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return kind_of(args[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_of(part) for part in args))
    if origin in (tuple, list):
        return f"list of {kind_of(args[0])}" if args else "list"
    if origin in (dict, Mapping):
        return "mapping"
    plain = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "`null`"}
    return plain.get(kind, "any" if kind is Any else getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str | None:
    if value is dataclasses.MISSING or value == {}:
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return None
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value) or '""'


def described(thing: Any) -> dict[str, str]:
    """Meanings by name, from the `name  Meaning` lines of a docstring and of those of its base classes."""
    meanings: dict[str, str] = {}
    for each in reversed(inspect.getmro(thing)) if isinstance(thing, type) else (thing,):
        names: list[str] = []
        for line in inspect.cleandoc(each.__doc__ or "").splitlines():
            entry = ENTRY.match(line)
            if entry and (entry["meaning"] or len(entry["names"].split()) > 1):
                names = entry["names"].split(", ")
                meanings |= dict.fromkeys(names, entry["meaning"])
            elif names and line.startswith("  "):
                meanings |= {name: f"{meanings[name]} {line.strip()}".strip() for name in names}
            else:
                names = []
    return meanings


# -- library -------------------------------------------------------------------------------------------


def api() -> str:
    """Signature and docstring of everything that `import lrt` gives."""
    opening = "Everything that `import lrt` gives. Guide: [library](../library.md)."
    parts = ["# Library reference", "", opening, ""]
    for name in sorted(lrt.__all__, key=str.lower):
        thing = getattr(lrt, name)
        parts += [f"## lrt.{name}", ""]
        if isinstance(thing, type):
            parts += [_docstring(thing), ""]
            for member, value in _methods(thing):
                parts += [f"### {name}.{member}{_signature(value)}", "", _docstring(value), ""]
        elif callable(thing):
            parts += ["```python", f"lrt.{name}{_signature(thing)}", "```", "", _docstring(thing), ""]
        else:
            parts += [f"`{thing!r}`", ""]
    return "\n".join(parts)


def _methods(of: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(of).items():
        member = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not name.startswith("_") and isinstance(member, (types.FunctionType, property)) and member.__doc__:
            yield name, member


def _signature(thing: Any) -> str:
    """Parameters and result; a long default is `...`."""
    if isinstance(thing, property):
        return ""
    signature = inspect.signature(typing.cast("Callable[..., Any]", thing))
    shown = [
        each.replace(default=_Long() if len(repr(each.default)) > LONGEST_DEFAULT else each.default)
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    # annotations are strings already
    text = str(signature.replace(parameters=shown))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


class _Long:
    """A default that is too long to show."""

    def __repr__(self) -> str:
        return "..."


def _docstring(thing: Any) -> str:
    """The docstring with its `name  Meaning` lines as a table."""
    lines, table = [], False
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        entry = ENTRY.match(line)
        if entry and entry["meaning"]:
            lines += [] if table else ["", "| name | meaning |", "|---|---|"]
            table = True
            lines.append(f"| {entry['names']} | {escape_markdown(entry['meaning'])} |")
        elif table and line.startswith("  "):
            lines[-1] = f"{lines[-1][:-2]} {escape_markdown(line.strip())} |"
        else:
            if table and line:
                lines.append("")
            table = False
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
