"""`lrt push` and `lrt pull`: maps and vectors on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrt.storage.catalogue import artifact_path


def push(
    artifact: Annotated[
        str, typer.Argument(help="A map or vector: folder, or a name from `lrt list`.", show_default=False)
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Made where it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, made where it does not exist.")] = None,
    licence: Annotated[str | None, typer.Option(help="For the model card, such as apache-2.0.")] = None,
) -> None:
    """Publish a map or a vector on the hub, with a model card. Log in first: hf auth login.

    \b
    Examples:
      lrt push map org/name --licence apache-2.0
      lrt push french org/name --private
    """
    from lrt import push as pushed
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    url = pushed(artifact_path(artifact), repository, private=private, revision=revision, licence=licence)
    console.print(f"pushed: {url}", markup=False)


def pull(
    reference: Annotated[
        str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="With a branch, tag or commit.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to put it; by default it stays in the hub's cache."),
    ] = None,
) -> None:
    """Fetch a map or a vector from the hub, check it, and print where it is.

    \b
    Examples:
      lrt pull org/name -o map
      lrt pull org/name@v1 -o map
    """
    from lrt import pull as pulled
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    console.print(f"pulled: {pulled(reference, out)}", markup=False)
