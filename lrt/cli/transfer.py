"""`lrt transfer`: a vector of the source model on the target, with its forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lrt.cli.vector_files import From, Read, To, Write, check_vector_output, of_layer, read_vectors, write
from lrt.errors import InvalidValue, UserError
from lrt.storage.catalogue import artifact_path

if TYPE_CHECKING:
    from lrt import FittedMap, MapGrid, SteeringVector


def transfer(
    vector: Annotated[
        list[str],
        typer.Argument(
            help="A vector: file or folder, or a name from `lrt list`. Several where the map reads several "
            "layers.",
            show_default=False,
        ),
    ],
    map_: Annotated[
        str,
        typer.Option(
            "--map",
            help="A map's folder, a name from `lrt list`, or org/name@revision on the hub.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the vector, or file of another format.")
    ],
    layer: Annotated[
        str,
        typer.Option(
            help="Target layer; auto takes the nearest in relative depth to the vector's, of those whose "
            "signal to noise is at least a quarter of the best one's."
        ),
    ] = "auto",
    source_layer: Annotated[
        int | None, typer.Option(help="Of a file with vectors of several layers, this one alone.")
    ] = None,
    from_: From = None,
    read_facts: Read = None,
    to: To = None,
    write_facts: Write = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Write nothing and exit with 1 where the forecast warns.")
    ] = False,
) -> None:
    """Transfer a steering vector with a fitted map, and forecast whether it will steer.

    \b
    Examples:
      lrt transfer french --map map -o french-large
      lrt transfer french --map org/name@revision --layer auto -o french-large
      lrt transfer french.gguf --read model=small --map map -o large.gguf --strict
    """
    target: int | Literal["auto"] = "auto" if layer == "auto" else _block(layer)
    check_vector_output(out, to, write_facts)

    from lrt import load_map
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    mapping = load_map(_map_path(map_))
    vectors = [each for name in vector for each in read_vectors(name, from_, read_facts)]
    chosen = _for_map(mapping, of_layer(", ".join(vector), vectors, source_layer))
    for each in chosen:
        console.print(f"vector:   {each!r}", markup=False)
    console.print(f"map:      {mapping!r}", markup=False)
    result = mapping.transfer(chosen if len(chosen) > 1 else chosen[0], target_layer=target)  # type: ignore[arg-type]
    for candidate in result.forecast.candidates:
        console.print(f"layer {candidate.target_layer}: {candidate.forecast}", markup=False, style="dim")
    console.print(f"result:   {result.vector!r}", markup=False)
    console.print(f"forecast: {result.forecast}", markup=False)
    for warning in result.forecast.warnings:
        console.print(f"warning:  {warning}", markup=False, style="yellow")
    if strict and result.forecast.warnings:
        raise UserError(f"--strict: the forecast warns, so {out} was not written")
    write(result.vector, out, to, write_facts)
    console.print(f"transferred: {out}", markup=False)


def _block(layer: str) -> int:
    if not layer.isdecimal():
        raise InvalidValue(f"--layer {layer}: it must be a block of the target, such as 15, or auto")
    return int(layer)


def _map_path(name: str) -> str | Path:
    """A folder or an artifact's name; a hub's reference (`org/name`) is left to `load_map`."""
    return name if "/" in name and not Path(name).exists() else artifact_path(name, kind="map")


def _for_map(mapping: FittedMap | MapGrid, vectors: list[SteeringVector]) -> list[SteeringVector]:
    """The vectors that a map reads: one of each of its layers, or of a grid's layers one.

    Raises InvalidValue that names the layers.
    """
    from lrt import FittedMap

    if len(vectors) == 1:  # the map says what is wrong with it
        return vectors
    several = isinstance(mapping, FittedMap)
    if isinstance(mapping, FittedMap) and mapping.mapping.beside:
        sources = mapping.mapping.sources
        order = [(part.model, layer) for part in sources for layer in part.layers.layers]
        # what is left, the map says
        return sorted(
            vectors, key=lambda v: order.index((v.model, v.layer)) if (v.model, v.layer) in order else 0
        )
    read = mapping.mapping.source.layers if isinstance(mapping, FittedMap) else mapping.source_layers
    chosen = sorted((each for each in vectors if each.layer in read), key=lambda each: each.layer)
    layers = [each.layer for each in chosen]
    if layers == sorted(read) if several else len(layers) == 1:
        return chosen
    given = ", ".join(str(each.layer) for each in vectors)
    raise InvalidValue(
        f"the vectors are of the layers {given}; the map reads {', '.join(map(str, read))}, each once. "
        + ("Give one vector of each" if several else "Choose one of them with --source-layer")
    )
