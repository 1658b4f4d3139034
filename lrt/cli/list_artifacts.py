"""`lrt list`: the artifacts of a folder by name and date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lrt.errors import InvalidValue
from lrt.storage.catalogue import artifacts_in


def list_artifacts(
    folder: Annotated[Path, typer.Argument(help="Where to look, subfolders included.")] = Path(),
    kind: Annotated[
        Literal["map", "vector", "store", "autoencoder", "report"] | None,
        typer.Option(help="Only artifacts of this kind."),
    ] = None,
    count: Annotated[int, typer.Option("-n", help="At most this many; 0 for all.")] = 40,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths alone, for scripts.")] = False,
) -> None:
    """List maps, vectors, stores and reports, newest first. Commands take their names in place of paths.

    \b
    Examples:
      lrt list
      lrt list artifacts --kind map
    """
    from rich.table import Table
    from rich.text import Text

    from lrt.cli.terminal import plain_console

    if not folder.is_dir():
        raise InvalidValue(f"{folder} is not a folder")
    artifacts = [each for each in artifacts_in(folder) if kind in (None, each.kind)]
    shown = artifacts[:count] if count > 0 else artifacts
    console = plain_console()
    if paths:
        for each in shown:
            console.print(str(each.path), markup=False)
        return
    if not artifacts:
        console.print(f"no artifacts in {folder.resolve()}", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True, min_width=max(len(each.name) for each in shown))
    for column in ("kind", "made"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for each in shown:
        table.add_row(Text(each.name), each.kind, f"{each.made:%Y-%m-%d %H:%M}", Text(each.about))
    console.print(table, soft_wrap=False)
    if len(shown) < len(artifacts):
        console.print(f"and {len(artifacts) - len(shown)} more: -n 0 prints all", style="dim")
