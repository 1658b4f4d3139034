"""Options of the commands that read and write steering vectors, and what they do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lrt.cli.outputs import check_output
from lrt.errors import InvalidValue
from lrt.storage.catalogue import artifact_path

if TYPE_CHECKING:
    from lrt.api.layer_spec import Layers
    from lrt.steering import SteeringVector

FormatName = Literal["lrt", "gguf", "steering-vectors", "lm-eval", "hotwire", "vllm-lens", "tensors"]
ENDINGS: dict[str, str] = {
    "lrt": "",
    "gguf": ".gguf",
    "steering-vectors": ".pt",
    "lm-eval": ".pt",
    "hotwire": ".pt",
    "vllm-lens": ".json",
    "tensors": ".safetensors",
}
"""Of the file that is named after a vector."""

Vector = Annotated[
    str,
    typer.Argument(help="A vector: file or folder, or a name from `lrt list`.", show_default=False),
]
From = Annotated[
    FormatName | None, typer.Option("--from", help="Format of VECTOR, where its path does not say it.")
]
To = Annotated[FormatName | None, typer.Option("--to", help="Format of OUT, where its path does not say it.")]
Read = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="NAME=VALUE",
        help="What VECTOR's file does not say: model=small, layer=15, hook_point='block output', "
        "residual_norm=stored, convention=cvector-generator. Repeatable; docs/formats.md lists them.",
    ),
]
Write = Annotated[
    list[str] | None,
    typer.Option(
        "--write",
        metavar="NAME=VALUE",
        help="What OUT's format needs beside the vector: strength=0.4, blocks=layers, depth=28. Repeatable.",
    ),
]


def read_vectors(name: str, form: FormatName | None, facts: Sequence[str] | None) -> list[SteeringVector]:
    """The vectors of a file, folder or artifact, ordered by block."""
    from lrt.steering import read_vector

    path, arguments = artifact_path(name, kind="vector"), parsed("--read", facts)
    with naming_options(path, "--read", "--from"):
        return read_vector(path, form, **arguments)


def of_layer(name: str, vectors: Sequence[SteeringVector], layer: int | None) -> list[SteeringVector]:
    """Those of a layer; all where none is named. Raises InvalidValue that lists their layers."""
    chosen = [each for each in vectors if layer in (None, each.layer)]
    if not chosen:
        layers = ", ".join(str(each.layer) for each in vectors)
        raise InvalidValue(f"{name} has no vector of layer {layer}; its layers are {layers}")
    return chosen


def write(
    vectors: SteeringVector | list[SteeringVector],
    out: Path,
    form: FormatName | None,
    facts: Sequence[str] | None,
) -> None:
    """Writes vectors to a file or folder, whose parents are made."""
    from lrt.steering import write_vectors

    arguments = parsed("--write", facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming_options(out, "--write", "--to"):
        write_vectors(vectors, out, form, **arguments)


def check_vector_output(out: Path, form: FormatName | None, facts: Sequence[str] | None) -> None:
    """Raise InvalidValue where `write` could not write, whatever the vectors are."""
    from lrt.steering.formats import writing_format

    arguments = parsed("--write", facts)
    with naming_options(out, "--write", "--to"):
        writing_format(out, form, **arguments)
    check_output(out, "vector")


@contextmanager
def naming_options(path: Path, facts: str, form: str) -> Iterator[None]:
    """In messages, the options in place of the library's arguments: `--read model=` for `model=`."""
    from lrt.steering.formats import FACTS

    arguments = re.compile(rf"\b({'|'.join(FACTS)}|format)=( ?)")

    def option(argument: re.Match[str]) -> str:
        name, space = argument.groups()
        return f"{form}{space or ' '}" if name == "format" else f"{facts} {name}={space}"

    try:
        yield
    except InvalidValue as error:  # a path may look like an argument
        texts = str(error).split(str(path))
        raise InvalidValue(str(path).join(arguments.sub(option, text) for text in texts)) from error


def parsed(option: str, facts: Sequence[str] | None) -> dict[str, Any]:
    """`NAME=VALUE` words as arguments: a number, list or object of JSON, else text."""
    arguments = {}
    for fact in facts or ():
        name, equals, value = fact.partition("=")
        if not equals or not name:
            raise InvalidValue(f"{option} {fact}: it must be NAME=VALUE, such as model=small")
        try:
            arguments[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            arguments[name.replace("-", "_")] = value
    return arguments


def parse_layer(text: str, option: str) -> int | float:
    """A block, or a depth in [0, 1). Raises InvalidValue that names the option."""
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    raise InvalidValue(
        f"{option} {text}: it must be a block from 0, such as 15, or a depth in [0, 1), such as 0.5"
    )


def parse_layers(text: str, option: str) -> Layers:
    """What `fit_map` takes for a side: a layer, several put together by `+`, `auto`, `all` or `every N`."""
    text = text.strip()
    if text in ("auto", "all") or text.startswith("every "):
        return text
    layers = [parse_layer(layer, option) for layer in text.split("+")]
    return layers if len(layers) > 1 else layers[0]
