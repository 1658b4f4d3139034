"""`lrt reproduce SETTING`: one setting of published work from end to end, and one file with its results."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrt.errors import InvalidValue

if TYPE_CHECKING:
    from lrt.config import Config

SMALL = {
    "corpus.tokens.train": 6144,
    "corpus.tokens.validation": 3072,
    "corpus.tokens.test": 3072,
    "corpus.context": 256,
    "batches.rows": 512,
    "evaluation.grid.strengths": "[0.0, 0.5, 1.0]",
    "evaluation.random_draws": 2,
    "evaluation.shuffled_draws": 1,
    "evaluation.resampled_draws": 2,
    "evaluation.untrained_draws": 1,
    "evaluation.folds": 2,
    "evaluation.side_effects.perplexity.items": 2,
    "analysis.fidelity_kinds": "[full]",
    "trainer.accelerator": "auto",
    "trainer.enable_progress_bar": "false",
    "logging.mode": "disabled",
}
"""Settings of a dry run, whatever the experiment."""
SMALL_SUITE = {
    "contrast_pairs": 6,
    "development": 4,
    "test": 6,
    "answer_tokens": 4,
    "continuation": 4,
    "damage_texts": 4,
}
"""Settings of its suites, by their last name."""
TASKS = 2
RATE = 1e14  # operations a second, for the estimate that is printed
ROOM = 1.2  # of the weights: batches and sums come on top


def reproduce(
    context: typer.Context,
    setting: Annotated[str, typer.Argument(help="Its name: see docs/results/papers.md.", metavar="SETTING")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With tiny untrained models and small sets made here.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what the run needs, and whether it fits.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The results file.", show_default="SETTING.json")
    ] = None,
) -> None:
    """Run a setting of published work, and write one file with its results.

    Further arguments are overrides of the experiment's settings. A stopped run continues.

    \b
    Examples:
      lrt reproduce unlock_svamp --dry-run
      lrt reproduce unlock_svamp --check
      lrt reproduce chen_gemma pair.models=models
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from lrt.cli.composing import compose_config
    from lrt.cli.terminal import open_terminal
    from lrt.config import read_config
    from lrt.report.papers import SETTINGS

    if setting not in SETTINGS:
        raise InvalidValue(f"there is no setting {setting!r}; allowed: {', '.join(SETTINGS)}")
    file = output or Path(f"{setting}{'-dry-run' * dry_run}.json")
    if not file.parent.is_dir():
        raise InvalidValue(
            f"--output {file}: the folder {file.parent} does not exist; make it, or name another"
        )
    overrides = [f"experiment={setting}", "evaluate=true", *context.args]
    try:
        composed = compose_config("train", *overrides)
    except HydraException as error:
        raise InvalidValue(f"these settings do not compose: {error}") from error
    if not OmegaConf.is_dict(composed.pair.source):
        raise InvalidValue("pair.source: a setting of published work has one source model; name one")
    console = open_terminal()
    if dry_run:
        console.print(f"DRY RUN of {setting}: tiny untrained models. Its numbers mean nothing.", style="bold")
        with tempfile.TemporaryDirectory(prefix="lrt-dry-run-") as folder:
            _run([*overrides, *stand_ins(composed, Path(folder))], Path(folder), file, setting, dry_run=True)
        console.print(f"DRY RUN of {setting} done. Its numbers mean nothing: {file}", style="bold")
        return
    pair = composed.pair
    console.print(needs(read_config(composed), pair.source.path, pair.target.path), markup=False)
    if not check:
        _run(overrides, Path("outputs", "reproduce", setting), file, setting, dry_run=False)
        console.print(f"results: {file}", markup=False)


def _run(overrides: list[str], folder: Path, file: Path, setting: str, *, dry_run: bool) -> None:
    from lrt.cli import train
    from lrt.cli.command import command
    from lrt.report.papers import compact
    from lrt.report.plain import to_json
    from lrt.storage.durable import write_durably
    from lrt.storage.text_files import read_json

    report = folder / "report"
    # as `lrt train` is run: Lightning starts further processes by this command line
    sys.argv = [
        str(train.__file__),
        *overrides,
        _override("hydra.run.dir", str(folder / "run")),
        _override("paths.report", str(report)),
    ]
    sys.modules["__main__"].__spec__ = None
    command(train.main, "train")
    write_durably(file, to_json(compact(read_json(report / "results.json"), setting, dry_run)))


def stand_ins(composed: Any, folder: Path) -> list[str]:
    """Overrides that put small sets and tiny untrained models, made in the folder, in the places of those
    that a composed config names.

    Raises InvalidValue for a model whose sizes are not known.
    """
    from omegaconf import OmegaConf

    from lrt.evaluation.stand_in_sets import write_set
    from lrt.lab.stand_ins import write_stand_in
    from lrt.models import quiet_loading
    from lrt.report.plain import leaves

    quiet_loading()
    changed: dict[str, Any] = {**SMALL, "pair.models": "null", "paths.artifacts": str(folder / "artifacts")}
    for side in ("source", "target"):
        place = write_stand_in(composed.pair[side].path, folder / "models", seed=side == "target")
        changed[f"pair.{side}.path"] = str(place)
    sections = {name: OmegaConf.to_container(composed[name], resolve=True) for name in ("corpus", "suite")}
    for path, value in leaves(sections):
        name = path.rpartition(".")[2]
        if path.startswith("suite.") and name in SMALL_SUITE:
            changed[path] = SMALL_SUITE[name]
        elif name == "tasks":
            changed[path] = value[:TASKS]
        else:
            written = [write_set(str(each), folder / "sets") for each in _listed(value)]
            if any(written):
                places = [str(new or old) for new, old in zip(written, _listed(value), strict=True)]
                changed[path] = places if isinstance(value, list) else places[0]
    return [_override(path, value) for path, value in changed.items()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _override(path: str, value: Any) -> str:
    """An override of Hydra's, with quotes around texts that need them."""
    if isinstance(value, list):
        return f"{path}=[{', '.join(map(_quoted, value))}]"
    return f"{path}={_quoted(value) if '/' in str(value) else value}"


def _quoted(text: Any) -> str:
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def needs(config: Config, source_id: str, target_id: str) -> str:
    """What a run needs, in words.

    source_id, target_id  Of the hub, also where the config names local copies.

    Raises InvalidValue where the models do not fit on the GPUs, or there is none.
    """
    from lrt.lab.stand_ins import SHAPES
    from lrt.models import ModelSpec

    if unknown := [each for each in (source_id, target_id) if each not in SHAPES]:
        return (
            f"The sizes of {' and '.join(unknown)} are not known, so they were not compared with the memory."
        )
    assert isinstance(config.pair.source, ModelSpec), "checked when the settings are composed"
    source, target = SHAPES[source_id], SHAPES[target_id]
    weights = sum(
        shape.parameters * (4 if spec.dtype == "float32" else 2)
        for shape, spec in ((source, config.pair.source), (target, config.pair.target))
    )
    tokens = config.corpus.tokens.train + config.corpus.tokens.validation + config.corpus.tokens.test
    read = source.parameters * (1 + config.evaluation.untrained_draws) + target.parameters
    hours = 2 * tokens * read / RATE / 3600
    said = (
        f"Weights of {config.pair.name}: {weights / 1e9:.3g} GB. Both models, and "
        f"{config.evaluation.untrained_draws} untrained sources, read {tokens:,} tokens: at least "
        f"{hours:.2g} h at {RATE / 1e12:g} TFLOP/s, the evaluation apart."
    )
    free = _gpus()
    if not free:
        raise InvalidValue(
            f"{said} There is no GPU here: take a machine with one, or add --dry-run to try it without. "
            "(`lrt train experiment=NAME evaluate=true trainer=default` runs it on the CPU all the same.)"
        )
    spread = config.pair.target.device_map is not None
    room = sum(free) if spread else max(free)
    if ROOM * weights > room:
        raise InvalidValue(
            f"{said} The {'GPUs have' if spread else 'GPU has'} {room / 1e9:.3g} GB free: free some, take a "
            "larger one, or set pair.target.device_map=auto, which uses all GPUs and the CPU's memory"
        )
    return f"{said} {'GPUs have' if spread else 'The GPU has'} {room / 1e9:.3g} GB free."


def _gpus() -> list[int]:
    """Free bytes of each GPU."""
    import torch

    from lrt.models.hardware import free_bytes

    devices = (torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    return [free_bytes(device) or 0 for device in devices]
