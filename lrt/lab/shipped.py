"""The shipped family: where its weights lie, their cards, and what makes a file worth trusting."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

WEIGHTS = Path(__file__).parent / "weights"
CARD = "card.json"
MODEL_FILE = "model.safetensors"


class CardMismatch(ValueError):
    """A shipped model whose file is not the one its card describes."""


def shipped() -> list[str]:
    """Names of the models that are there, smallest first."""
    cards = [json.loads(file.read_text()) for file in WEIGHTS.glob(f"*/{CARD}")]
    return [c["name"] for c in sorted(cards, key=lambda c: (c["parameters"], c["name"]))]


def folder_of(name: str) -> Path:
    """The folder of a shipped model, as a model spec's path; raises ValueError for an unknown name."""
    if name not in shipped():
        raise ValueError(
            f"storybook model {name!r} is not shipped; there are {', '.join(shipped())} "
            f"(train it with: make lab MODEL={name})"
        )
    return WEIGHTS / name


def family_card(folder: Path) -> dict[str, Any] | None:
    """The card of a family model's folder, or None where the folder has none."""
    file = folder / CARD
    return json.loads(file.read_text()) if file.is_file() else None


def ship(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: dict[str, Any],
) -> None:
    """Writes bf16 weights, tokenizer and card to `folder`, in the form `from_pretrained` reads.

    The model is turned to bf16 in place. The card is pretraining's with the checks' beside it; name and
    shape from its recipe are put where a report looks for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)  # a folder with a card is whole
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    told = {key: card["recipe"][key] for key in ("name", "depth", "width")}
    (folder / CARD).write_text(json.dumps({**told, **card, "sha256": digest}, indent=2) + "\n")


def check_card(folder: Path) -> dict[str, Any]:
    """The card, after its checksum was held against the weights; raises `CardMismatch`."""
    card = family_card(folder)
    if card is None:
        raise CardMismatch(f"{folder} has no {CARD}")
    if not (folder / MODEL_FILE).is_file():
        raise CardMismatch(f"{folder} has a card but no {MODEL_FILE}")
    digest = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    if digest != card["sha256"]:
        raise CardMismatch(f"{folder / MODEL_FILE} is not the file that its card describes")
    return card
