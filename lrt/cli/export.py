"""`lrt export`: a vector in the file format of other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.vector_files import (
    ENDINGS,
    FormatName,
    From,
    Read,
    Vector,
    Write,
    check_vector_output,
    of_layer,
    read_vectors,
    write,
)
from lrt.storage.catalogue import slug


def export(
    vector: Vector,
    to: Annotated[FormatName, typer.Option("--to", help="The format.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; by default named after the vector.")
    ] = None,
    write_facts: Write = None,
    from_: From = None,
    read_facts: Read = None,
    layer: Annotated[
        int | None, typer.Option(help="Of a file with vectors of several layers, this one alone.")
    ] = None,
) -> None:
    """Write a vector in another format: for llama.cpp, repeng, steering-vectors, lm-eval, vLLM plugins.

    \b
    Examples:
      lrt export french-large --to gguf
      lrt export french-large --to lm-eval --write strength=0.35 --write blocks=layers
      lrt export french.gguf --read model=large --to tensors -o french.safetensors
    """
    from lrt.cli.terminal import open_terminal
    from lrt.errors import InvalidValue

    console = open_terminal()
    vectors = of_layer(vector, read_vectors(vector, from_, read_facts), layer)
    file = out or Path(slug(vectors[0].behaviour or Path(vector).stem) + ENDINGS[to])
    if out is None and file.exists():
        raise InvalidValue(f"{file} exists; name another file with -o, or the same to replace it")
    check_vector_output(file, to, write_facts)
    write(vectors, file, to, write_facts)
    for each in vectors:
        console.print(repr(each), markup=False)
    console.print(f"{to}: {file}", markup=False)
