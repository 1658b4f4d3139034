"""Settings that messages name exist."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import lrt
from lrt.cli.record import RecordSettings
from lrt.config import Config
from lrt.config.reading import RENAMED
from lrt.lab.pretraining import FamilyMember
from lrt.pipeline.grid_atlas import AtlasSettings

PACKAGE = Path(lrt.__file__).parent
FOLDERS = (
    *("corpora", "lab", "activations", "mapping", "features", "steering", "evaluation"),
    *("config", "pipeline", "cli"),
)
OTHER_SECTIONS = {"atlas": AtlasSettings, "record": RecordSettings, "lab": FamilyMember}
ANY = "any"  # stands for what is filled in: `layers.{side}`
# a dotted name of lower-case words that is no attribute of something and no file
NAMED = re.compile(r"(?<![\w.`/-])[a-z_]+(?:\.[a-z_]+)+(?![\w(])")
FILES = (".json", ".safetensors", ".npz", ".yaml", ".py", ".txt", ".gguf")
# modules, Hydra, a chat template, llama.cpp, an example of the library
OTHERS = ("lrt.", "hydra.", "oc.", "message.", "llama.", "model.layers", "transformer.", "result.")


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """Strings of a module that are no docstring, filled-in parts as `any`."""
    tree = ast.parse(file.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr():
                pieces = [p.value if isinstance(p, ast.Constant) else ANY for p in node.values]
                yield node.lineno, "".join(map(str, pieces))
            case ast.Constant(value=str() as text) if id(node) not in parts | docstrings:
                yield node.lineno, text


def accepts(holder: Any, path: list[str]) -> bool:
    """Whether a dataclass, dict or union of them has a setting at a path."""
    if not path:
        return True
    if is_dataclass(holder):
        hints = get_type_hints(holder)
        names = [f.name for f in fields(holder)] if path[0] == ANY else [path[0]]
        return any(name in hints and accepts(hints[name], path[1:]) for name in names)
    if holder is Any or getattr(holder, "__origin__", None) is dict:
        inner = get_args(holder)[1:] or (Any,)
        return accepts(inner[0], path[1:])
    return any(accepts(each, path) for each in get_args(holder) if each is not type(None))


def exists(name: str) -> bool:
    section, *rest = name.split(".")
    if section in OTHER_SECTIONS:
        return accepts(OTHER_SECTIONS[section], rest)
    return accepts(Config, [section, *rest])


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("corpus.tokens.train", True),
        ("corpus.tokens.more", False),
        ("pair.any.dtype", True),
        ("corpus.sources.any.fit_map_for", True),
        ("fit.learning_rate", True),
        ("fit.solver", True),
        ("fit.options.momentum", True),
        ("trainer.devices", True),
        ("analysis.sae.k", True),
        ("analysis.sae.learning_rate", False),
        ("sae.k", False),
        ("moments.products", False),
        ("atlas.source", True),
        ("atlas.layers", False),
        ("record.share", True),
        ("lab.tokens", True),
        ("evaluation.probe", False),
    ],
)
def test_settings_are_distinguished_from_other_names(name: str, there: bool) -> None:
    assert exists(name) == there


def test_messages_name_settings_that_exist() -> None:
    named = [
        (f"{folder}/{file.name}:{line}", name)
        for folder in FOLDERS
        for file in sorted((PACKAGE / folder).rglob("*.py"))
        for line, text in literals(file)
        if " " in text
        for name in NAMED.findall(text)
        if not name.endswith(FILES) and not name.startswith(OTHERS)
    ]
    assert {"corpus.tokens", "map.rank", "analysis.sae.k"} <= {name for _, name in named}
    assert [(where, name) for where, name in named if not exists(name)] == []


def test_new_names_of_renamed_settings_exist() -> None:
    # `\1` stands for a part's name between dots, and elsewhere for what may be absent
    news = [new.replace(r".\1.", f".{ANY}.").replace(r"\1", "") for new in RENAMED.values()]
    ours = [new for new in news if new != "allow_failed_checks"]  # a root setting of conf/pretrain.yaml
    assert [new for new in ours if not exists(new)] == []
