"""make lab: trains one member of the storybook family from nothing, checks it, and ships it.

lrt pretrain lab=small
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.progress import Progress

from lrt.cli.command import command
from lrt.config import ConfigError
from lrt.config.reading import as_plain, explain
from lrt.errors import UserError
from lrt.lab.checks import examine
from lrt.lab.pretraining import FamilyMember, pretrain
from lrt.lab.shipped import WEIGHTS, ship
from lrt.lab.tokenizer import load_or_train_tokenizer
from lrt.models import LanguageModel, ModelSpec


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Order:
    """What `conf/pretrain.yaml` holds."""

    lab: FamilyMember
    weights: str | None
    work: str
    checkpoint_seconds: float
    accelerator: str
    compile: bool
    check_items: int
    allow_failed_checks: bool


class ChecksMissed(UserError):
    """A trained model that is not good enough to be shipped."""


class _Bar(L.Callback):
    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        self.progress = progress
        self.task = progress.add_task(f"pretraining {name}", total=steps)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.progress.update(self.task, completed=trainer.global_step)


def main(composed: DictConfig) -> None:
    """Tokenizer, training, checks, shipping."""
    try:
        order = TypeAdapter(Order).validate_python(as_plain(composed))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    weights = Path(order.weights) if order.weights else WEIGHTS
    tokenizer = load_or_train_tokenizer(weights / "tokenizer")
    console = Console(stderr=True)
    console.print(f"writing {order.lab.tokens:,} tokens of the {order.lab.split} split")
    with Progress(console=console) as progress:
        model, card = pretrain(
            order.lab,
            tokenizer,
            Path(order.work),
            callbacks=[_Bar(progress, order.lab.name, order.lab.steps)],
            checkpoint_seconds=order.checkpoint_seconds,
            accelerator=order.accelerator,
            compiled=order.compile,
        )
    # examined as it is shipped: rounded to bf16, run in float32
    rounded = model.cpu().to(torch.bfloat16).to(torch.float32)
    lm = LanguageModel(ModelSpec(path=order.lab.name), rounded, tokenizer)
    with console.status(f"checking on {order.check_items} held-out documents each"):
        examined = examine(lm, order.check_items)
    for check in examined["checks"]:
        sign = "passed" if check["passed"] else "MISSED"
        console.print(f"{sign}: {check['name']} {check['value']} ({check['relation']} {check['limit']})")
    fit = order.allow_failed_checks or all(check["passed"] for check in examined["checks"])
    folder = (weights if fit else Path(order.work) / "missed") / order.lab.name
    ship(model, tokenizer, folder, card | examined)
    if not fit:
        raise ChecksMissed(
            f"{order.lab.name} misses a check, so it is in {folder} and not shipped; train it longer "
            f"(lab.tokens={order.lab.tokens}) or otherwise, or ship it as it is with allow_failed_checks=true"
        )


if __name__ == "__main__":
    sys.exit(command(main, "pretrain"))
