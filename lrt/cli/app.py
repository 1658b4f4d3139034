"""`lrt COMMAND`: every command of the package, in a clone or installed.

Commands that Hydra configures take its overrides as they are: `lrt train pair=own pair.source.path=ID`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lrt.cli.bake import bake
from lrt.cli.compare import compare
from lrt.cli.dashboard import dashboard
from lrt.cli.demo import demo
from lrt.cli.export import export
from lrt.cli.extract import extract
from lrt.cli.fit import fit
from lrt.cli.hub import pull, push
from lrt.cli.inspect_path import inspect
from lrt.cli.list_artifacts import list_artifacts
from lrt.cli.reproduce import reproduce
from lrt.cli.steer import steer
from lrt.cli.terminal import Commands
from lrt.cli.transfer import transfer

app = typer.Typer(
    name="lrt",
    cls=Commands,
    help="Transfer steering vectors between language models over affine maps of their hidden states.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a fault keeps its plain traceback
)

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
OVERRIDES = (
    "Overrides as in `layers.source=1 fit=adamw`; `--cfg job` prints the composed config, `-m` sweeps, "
    "`--config-dir FOLDER` adds pairs, corpora, suites and experiments of your own."
)


def hydra_command(name: str, help: str) -> None:
    """Adds a command whose module `lrt.cli.NAME` has a `main` for the config `conf/NAME.yaml`."""

    def run(context: typer.Context) -> None:
        import importlib

        from lrt.cli.command import command

        module = importlib.import_module(f"lrt.cli.{name}")
        main: Callable[..., Any] = module.main
        # Hydra reads the command line itself, and Lightning starts further processes by it: as the module's
        # file, which runs by itself too
        sys.argv = [str(module.__file__), *context.args]
        sys.modules["__main__"].__spec__ = None
        raise typer.Exit(command(main, name))

    run.__doc__ = f"{help}\n\n{OVERRIDES}"
    app.command(name, context_settings=PASS_ON, rich_help_panel="Configured by Hydra")(run)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "fit": fit,
    "extract": extract,
    "transfer": transfer,
    "steer": steer,
    "inspect": inspect,
    "list": list_artifacts,
    "compare": compare,
    "export": export,
    "bake": bake,
    "push": push,
    "pull": pull,
    "dashboard": dashboard,
}
for name, function in COMMANDS.items():
    app.command(name)(function)
app.command("reproduce", context_settings=PASS_ON, rich_help_panel="Configured by Hydra")(reproduce)
hydra_command("train", "Fit maps between two models; with `evaluate=true` the evaluation and the report too.")
hydra_command(
    "evaluate", "Transfer vectors across fitted maps, measure native, transferred and nulls, report."
)
hydra_command("atlas", "Every pair of a grid of layers, from one pass of both models and no store.")
hydra_command("record", "Record hidden states alone: all, one worker's share, or the shares put together.")
hydra_command("pretrain", "Train a member of the storybook family from nothing.")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="The artifacts.")] = Path("artifacts"),
    repair: Annotated[bool, typer.Option(help="Remove damaged files of stores.")] = False,
) -> None:
    """Compare stores, maps, vectors and autoencoders with their checksums."""
    from lrt.cli.verify import run

    raise typer.Exit(run(folder, repair))


@app.command("sweep-report")
def sweep_report(
    sweeps: Annotated[Path, typer.Argument(help="A folder of Hydra multirun folders.")],
    report: Annotated[Path, typer.Argument(help="Where the page goes.")],
) -> None:
    """Put several sweeps on one page."""
    from lrt.cli.sweep import run

    raise typer.Exit(run(sweeps, report))
