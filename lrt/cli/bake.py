"""`lrt bake`: a checkpoint that is steered without hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.model_options import Device, Dtype, Model, load_model
from lrt.cli.vector_files import From, Read, Vector, of_layer, read_vectors


def bake(
    model: Model,
    vector: Vector,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the checkpoint, new or empty.")],
    strength: Annotated[
        float, typer.Option(help="In median residual norms of the model.", show_default=False)
    ],
    layer: Annotated[
        int | None, typer.Option(help="Of a file with vectors of several layers, this one alone.")
    ] = None,
    from_: From = None,
    read_facts: Read = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write a copy of a model with a steering vector in its weights, for any software that loads it.

    Its logits are compared with those of steering. docs/formats.md lists the architectures.

    \b
    Examples:
      lrt bake LARGE french-large --strength 0.4 -o large-in-french
    """
    from lrt import bake as baked
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    vectors = of_layer(vector, read_vectors(vector, from_, read_facts), layer)
    console.print(
        repr(baked(load_model(model, dtype, device), vectors, out, strength=strength)), markup=False
    )
    console.print(f"baked: {out}", markup=False)
