"""`lrt demo`: a transfer on the shipped models, with no files needed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

SHOWN = 2
NEXT = """\
On your own models (hub ids, folders or GGUF files), the same in four commands:
  lrt fit SMALL LARGE --text texts.txt -o map
  lrt extract SMALL --positives positives.txt --negatives negatives.txt -o vector
  lrt transfer vector --map map -o transferred
  lrt steer LARGE transferred "A prompt" --strength 0.4
`lrt COMMAND --help` has examples; `lrt train evaluate=true` measures transfer with every null."""


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the text, prompts, map and vectors, to try the commands on."),
    ] = None,
) -> None:
    """Transfer a steering vector between two small shipped models, and show what it does.

    It needs no files and no network. The behaviour is refusal of harmless requests.

    \b
    Examples:
      lrt demo
      lrt demo --keep demo
    """
    import torch

    from lrt.api.demonstration import LARGE, SMALL, STRENGTH, demonstrate
    from lrt.cli.terminal import open_terminal
    from lrt.models import quiet_loading

    console, start = open_terminal(logging.WARNING), time.monotonic()
    quiet_loading()
    torch.set_num_threads(1)  # models of this size gain nothing from more, and lose on a busy machine
    done = demonstrate(lambda what: console.print(f"... {what}", style="dim", markup=False))
    if keep is not None:
        done.save(keep)
    console.print(f"\nmap:      {done.mapping!r}", markup=False)
    console.print(f"forecast: {done.transferred.forecast}", markup=False)
    for warning in done.transferred.forecast.warnings:
        console.print(f"warning:  {warning}", style="yellow", markup=False)
    for number, prompt in enumerate(done.prompts[:SHOWN]):
        console.print(f"\n{prompt}", style="bold", markup=False)
        for name, answers in done.answers.items():
            console.print(f"  {name:18}{answers[number]}", markup=False)
    count = len(done.prompts)
    console.print(f"\nrefused, of {count} harmless requests (strength {STRENGTH:g}):", style="bold")
    for name, refused in done.refusals.items():
        console.print(f"  {name:18}{refused}", markup=False)
    console.print(
        "The last two are nulls: vectors that must not steer. "
        f"({time.monotonic() - start:.0f} s, {SMALL} -> {LARGE})\n",
        style="dim",
        markup=False,
    )
    console.print(NEXT, markup=False)
    if keep is None:
        console.print("`lrt demo --keep demo` leaves files to try them on.", markup=False)
    else:
        console.print(f"Files to try them on: {keep}. The models are {SMALL} and {LARGE}.", markup=False)
