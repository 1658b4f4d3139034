"""`lrt fit`: a map of a pair of models, from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lrt.cli.model_options import Device, Dtype, Model, load_model
from lrt.cli.outputs import check_output
from lrt.cli.vector_files import parse_layers
from lrt.errors import InvalidValue


def fit(
    small: Model,
    large: Model,
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            help="Text to fit on: files, folders of *.txt, .jsonl, or a data set of the hub "
            "(org/name, org/name:CONFIG). Repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the map.")],
    layers: Annotated[
        str,
        typer.Option(
            help="Of the source and of the target: blocks (12,14) or depths (0.5,0.5). With auto, all, "
            "'every 4' or several (8+12,14) a map of every pair of them, for vectors of any of the layers."
        ),
    ] = "0.5,0.5",
    tokens: Annotated[
        int | None, typer.Option(help="Training tokens; all there are by default. Data sets need it.")
    ] = None,
    pool: Annotated[int, typer.Option(help="Neighbouring tokens whose mean is one row.")] = 16,
    context: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    unit: Annotated[
        Literal["paragraph", "line", "file"], typer.Option(help="What a document of a text file is.")
    ] = "paragraph",
    field: Annotated[str, typer.Option(help="Field with the text, of .jsonl files and data sets.")] = "text",
    split: Annotated[str, typer.Option(help="Split of data sets.")] = "train",
    seed: Annotated[int, typer.Option(help="Draws which documents are held out.")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Fit the map between a layer of one model and a layer of another.

    Text like the contrastive prompts of your vectors helps most.

    \b
    Examples:
      lrt fit SMALL LARGE --text texts.txt -o map
      lrt fit SMALL LARGE --text org/name --tokens 2000000 --layers auto,auto -o map
      lrt fit SMALL LARGE --text chats.jsonl --field prompt -o map
    """
    pair = layers.split(",")
    if len(pair) != 2:
        raise InvalidValue(f"--layers {layers}: it must be two layers, SOURCE,TARGET, such as 12,14")
    chosen = (parse_layers(pair[0], "--layers"), parse_layers(pair[1], "--layers"))

    if out.is_file():
        raise InvalidValue(f"--out {out} is a file; name a folder")
    check_output(out, "map")

    from rich.progress import Progress

    from lrt import fit_map
    from lrt.api.reading import is_endless, read_texts
    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    texts = read_texts(text, unit=unit, field=field, split=split)
    endless = [source for source in text if is_endless(source)]
    if endless and tokens is None:
        raise InvalidValue(f"--text {endless[0]} is streamed without end: give --tokens, such as 1000000")
    source, target = (load_model(path, dtype, device) for path in (small, large))
    with Progress(transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Fitting map")
        fitted = fit_map(
            source,
            target,
            texts,
            layers=chosen,
            pool=pool,
            tokens=tokens,
            context=context,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    fitted.save(out)
    console.print(repr(fitted), markup=False)
    console.print(f"map: {out}", markup=False)
    console.print(f"next: lrt transfer VECTOR --map {out} -o OUT", markup=False, style="dim")
