"""`lrt transfer`: a vector of the source model on the target, with its forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.vector_files import From, Read, To, Vector, Write, one_vector, write
from lrt.errors import UserError


def transfer(
    vector: Vector,
    map_: Annotated[
        str, typer.Option("--map", help="A map's folder, or a name from `lrt list`.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the vector, or file of another format.")
    ],
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
      lrt transfer french.gguf --read model=small --map map -o french-large.gguf --strict
      lrt transfer french --map map -o french-large.pt --to lm-eval \\
        --write strength=0.35 --write blocks=layers
    """
    from lrt import load_map
    from lrt.cli.terminal import open_terminal
    from lrt.storage.catalogue import artifact_path

    console = open_terminal()
    mapping = load_map(artifact_path(map_, kind="map"))
    source = one_vector(vector, from_, read_facts, mapping.source_layer)
    result = mapping.transfer(source)
    console.print(f"vector:   {source!r}", markup=False)
    console.print(f"map:      {mapping!r}", markup=False)
    console.print(f"forecast: {result.forecast}", markup=False)
    for warning in result.forecast.warnings:
        console.print(f"warning:  {warning}", markup=False, style="yellow")
    if strict and result.forecast.warnings:
        raise UserError(f"--strict: the forecast warns, so {out} was not written")
    write(result.vector, out, to, write_facts)
    console.print(f"transferred: {out}", markup=False)
