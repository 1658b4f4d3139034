"""The shipped storybook models: the folder of their weights, and their cards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lrt.errors import InvalidValue

WEIGHTS = Path(__file__).parent / "weights"
CARD = "card.json"
MODEL_FILE = "model.safetensors"


def shipped() -> list[str]:
    """Names of the shipped models, smallest first."""
    cards = [json.loads(file.read_text()) for file in WEIGHTS.glob(f"*/{CARD}")]
    return [c["name"] for c in sorted(cards, key=lambda c: (c["parameters"], c["name"]))]


def folder_of(name: str) -> Path:
    """The folder of a shipped model, for a model spec's path. Raises InvalidValue for an unknown name."""
    if name not in shipped():
        raise InvalidValue(
            f"storybook model {name!r} is not shipped; shipped are {', '.join(shipped())}. Train it with: "
            f"make lab MODEL={name}"
        )
    return WEIGHTS / name


def family_card(folder: Path) -> dict[str, Any] | None:
    """The card of a storybook model's folder, or None for a folder without one."""
    file = folder / CARD
    return json.loads(file.read_text()) if file.is_file() else None


def ship(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: dict[str, Any],
) -> None:
    """Write bfloat16 weights, tokenizer and card to `folder`, in the form that `from_pretrained` reads.

    The model is converted to bfloat16 in place.

    card  Pretraining's card with the results of the checks. The recipe's name and shape are copied to its top
          level, and the checksum of the weights is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)  # the card is written last: a folder with a card is complete
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    shape = {key: card["recipe"][key] for key in ("name", "depth", "width")}
    (folder / CARD).write_text(json.dumps({**shape, **card, "sha256": digest}, indent=2) + "\n")
