"""`lrt extract`: a steering vector of a model, from contrastive prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.model_options import Device, Dtype, Model, load_model
from lrt.cli.vector_files import To, Write, check_vector_output, parse_layer, write


def extract(
    model: Model,
    positives: Annotated[
        Path,
        typer.Option(help="Prompts with the behaviour: one on each line, or .jsonl.", show_default=False),
    ],
    negatives: Annotated[Path, typer.Option(help="Prompts without it.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the vector, or file of another format.")
    ],
    layer: Annotated[str, typer.Option(help="A block from 0, or a depth in [0, 1).")] = "0.5",
    behaviour: Annotated[str, typer.Option(help="What it steers, for messages and lists.")] = "",
    field: Annotated[str, typer.Option(help="Field with the prompt, in .jsonl files.")] = "text",
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Put each prompt in the model's chat template, as a user's message."),
    ] = False,
    to: To = None,
    write_facts: Write = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Extract a steering vector: the difference of mean states at the prompts' last tokens.

    \b
    Examples:
      lrt extract SMALL --positives french.txt --negatives english.txt --layer 12 -o french
      lrt extract SMALL --positives yes.jsonl --negatives no.jsonl --chat -o refusal.gguf
    """
    block = parse_layer(layer, "--layer")
    check_vector_output(out, to, write_facts)

    from lrt import extract_vector
    from lrt.api.chat import as_user
    from lrt.api.reading import read_prompts
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    sides = [read_prompts(file, field) for file in (positives, negatives)]
    lm = load_model(model, dtype, device)
    if chat:
        sides = [[as_user(lm, prompt) for prompt in side] for side in sides]
    vector = extract_vector(lm, sides[0], sides[1], block, behaviour=behaviour or out.stem)
    write(vector, out, to, write_facts)
    console.print(repr(vector), markup=False)
    console.print(f"vector: {out}", markup=False)
