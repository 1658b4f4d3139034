"""`lrt steer`: what a model writes with a vector, beside what it writes without."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from lrt.cli.model_options import Device, Dtype, Model, load_model
from lrt.cli.vector_files import From, Read, Vector, of_layer, read_vectors
from lrt.errors import InvalidValue

if TYPE_CHECKING:
    from rich.console import Console

    from lrt import LanguageModel, SteeringVector

COMMANDS = "/strength X changes the strength, /reset forgets the conversation, /quit ends (or Ctrl-D)"


def steer(
    model: Model,
    vector: Vector,
    prompt: Annotated[str | None, typer.Argument(help="What the model goes on with.")] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="In median residual norms of the model; 0.4 by default. Repeatable."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Of a file with vectors of several layers, this one alone.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Talk to the model in its chat template, steered and unsteered.")
    ] = False,
    tokens: Annotated[int, typer.Option(help="Most new tokens of a text.")] = 60,
    from_: From = None,
    read_facts: Read = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Print what a model writes with a steering vector, beside what it writes without.

    A negative strength steers the other way.

    \b
    Examples:
      lrt steer LARGE french-large "Once upon a time" --strength 0.4
      lrt steer LARGE french-large "Once upon a time" --strength 0.3 --strength 0.6
      lrt steer LARGE refusal-large --chat --strength 0.8
    """
    if prompt is None and not chat:
        raise InvalidValue("there is no PROMPT: give one in quotation marks, or --chat to talk to the model")
    strengths = strength or [0.4]
    if chat and len(strengths) != 1:
        raise InvalidValue(f"--chat takes one --strength, got {len(strengths)}")

    from lrt.cli.terminal import open_terminal

    console = open_terminal()
    vectors = of_layer(vector, read_vectors(vector, from_, read_facts), layer)
    lm = load_model(model, dtype, device)
    for each in vectors:
        console.print(repr(each), markup=False)
        if each.model != lm.spec.name:
            console.print(f"note: this vector is of {each.model}, the model is {lm.spec.name}", markup=False)
    if chat:
        _talk(console, lm, vectors, strengths[0], tokens, prompt)
        return
    assert prompt is not None
    texts = {"unsteered": lm.generate(prompt, tokens)}
    for value in strengths:
        with steered(lm, vectors, value):
            texts[f"strength {value:g}"] = lm.generate(prompt, tokens)
    show(console, texts)


def steered(lm: LanguageModel, vectors: list[SteeringVector], strength: float) -> ExitStack:
    """Every vector of a file at its layer, as its own software adds them."""
    from lrt import steer as add

    with ExitStack() as stack:
        for vector in vectors:
            stack.enter_context(add(lm, vector, strength))
        return stack.pop_all()


def show(console: Console, texts: dict[str, str]) -> None:
    """Texts side by side, each under its name."""
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, show_lines=False)
    for name in texts:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(text.strip()) for text in texts.values()))
    console.print(table, soft_wrap=False)


def _talk(
    console: Console,
    lm: LanguageModel,
    vectors: list[SteeringVector],
    strength: float,
    tokens: int,
    first: str | None,
) -> None:
    """A conversation without steering and one with, side by side, until the input ends."""
    from lrt.api.chat import Conversation

    console.print(COMMANDS, style="dim")
    plain, changed = Conversation(lm, tokens), Conversation(lm, tokens)
    message = _next(console) if first is None else first
    while message is not None:
        command, _, value = message.strip().partition(" ")
        match command:
            case "":
                pass
            case "/quit":
                return
            case "/reset":
                plain, changed = Conversation(lm, tokens), Conversation(lm, tokens)
            case "/strength":
                try:
                    strength = float(value)
                except ValueError:
                    console.print(f"/strength {value}: it must be a number, such as 0.4", markup=False)
            case _:
                texts = {"unsteered": plain.say(message)}
                with steered(lm, vectors, strength):
                    texts[f"strength {strength:g}"] = changed.say(message)
                show(console, texts)
        message = _next(console)


def _next(console: Console) -> str | None:
    """The next line of the user's; None at the end of the input."""
    try:
        return console.input("> ")
    except EOFError:
        return None
