"""Options of the commands that load models, and the loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from lrt import LanguageModel

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

Model = Annotated[
    str,
    typer.Argument(
        help="Hub id, folder or GGUF file; storybook:NAME is a shipped model.", show_default=False
    ),
]
Dtype = Annotated[DtypeName, typer.Option(help="Number format of the weights.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]


def load_model(path: str, dtype: DtypeName, device: str) -> LanguageModel:
    """The model, loaded without transformers' own progress bars and notes."""
    from lrt import load
    from lrt.models import quiet_loading

    quiet_loading()
    return load(path, dtype=dtype, device=device)
