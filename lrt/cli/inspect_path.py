"""`lrt inspect`: what something on the disk is, where it comes from, and whether it is intact."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    path: Annotated[
        str, typer.Argument(help="A file, a folder, or a name from `lrt list`.", show_default=False)
    ],
) -> None:
    """Print what a map, vector (in any format), store, report or run is, and whether it is intact.

    The exit code is 1 where it is damaged.

    \b
    Examples:
      lrt inspect map
      lrt inspect vector.gguf
      lrt inspect report/results.json
    """
    from lrt.api.inspection import inspect as inspected
    from lrt.cli.terminal import open_terminal
    from lrt.storage.catalogue import artifact_path

    console = open_terminal()
    found = inspected(artifact_path(path))
    console.print(found.kind, style="bold", markup=False)
    facts = {**found.facts, "intact": found.intact}
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"  {name:{width}}  {value}", markup=False)
    if found.fault:
        console.print(f"  {found.fault}", style="red", markup=False)
        raise typer.Exit(1)
