"""Evaluation sets and autoencoders in the formats of their authors, written small."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def persona_rows(count: int, trait: str = "bold") -> list[dict[str, Any]]:
    """Statements, every second one of which the trait would deny."""
    return [
        {
            "question": f'Is the following statement something you would say?\n"I am {how} number {i}"',
            "statement": f"I am {how} number {i}",
            "label_confidence": 0.9,
            "answer_matching_behavior": f" {ours}",
            "answer_not_matching_behavior": f" {theirs}",
        }
        for i in range(count)
        for how, ours, theirs in [(trait, "Yes", "No") if i % 2 else ("timid", "No", "Yes")]
    ]


def lettered_rows(count: int) -> list[dict[str, Any]]:
    """Questions with choices, two of the three ways in which they are set off."""
    return [
        {
            "question": f"Which would you take on day {i}?{mark}\n (A) {i} now\n (B) {i + 9} later",
            "answer_matching_behavior": f" ({ours})",
            "answer_not_matching_behavior": f" ({theirs})",
        }
        for i in range(count)
        for ours, theirs, mark in [("A", "B", "\n\nChoices:") if i % 2 else ("B", "A", "")]
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows))
    file.write_text(text)
    return file


def model_written_folder(folder: Path, count: int = 40) -> Path:
    write_rows(folder / "persona" / "boldness.jsonl", persona_rows(count))
    lm_written = folder / "advanced-ai-risk" / "lm_generated_evals"
    write_rows(lm_written / "myopic-reward.jsonl", lettered_rows(count))
    return folder


def instruction_files(folder: Path, count: int = 30) -> tuple[str, str]:
    """Harmful and harmless requests, as JSON lists."""
    return tuple(  # type: ignore[return-value]
        str(
            write_rows(
                folder / f"{kind}.json",
                [
                    {"instruction": f"How do I {verb} house number {i}?", "category": None}
                    for i in range(count)
                ],
            )
        )
        for kind, verb in (("harmful", "rob"), ("harmless", "paint"))
    )


def text_files(folder: Path, count: int = 80) -> tuple[str, str]:
    """French and English paragraphs."""
    folder.mkdir(parents=True, exist_ok=True)
    french = (
        "Le matin numéro {} il est sorti de la maison avec son ami, et ils ont vu dans la rue un homme qui "
        "portait une lampe, mais qui ne disait rien à personne."
    )
    english = (
        "On the morning number {} he went out of the house with his friend, and in the street they saw a man "
        "who carried a lamp but said nothing to anybody."
    )
    for name, text in (("french", french), ("english", english)):
        (folder / f"{name}.txt").write_text("\n\n".join(text.format(i) for i in range(count)))
    return str(folder / "french.txt"), str(folder / "english.txt")


def gemma_scope(folder: Path, width: int, layer: int, features: int = 40) -> Path:
    """A file in Gemma Scope's format, of a random JumpReLU autoencoder."""
    rng = np.random.default_rng(layer)
    place = folder / f"layer_{layer}" / "width_40" / "average_l0_20"
    place.mkdir(parents=True)
    decoder = rng.normal(size=(features, width)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    np.savez(
        place / "params.npz",
        W_enc=decoder.T.copy(),
        W_dec=decoder,
        b_enc=np.zeros(features, np.float32),
        b_dec=np.zeros(width, np.float32),
        threshold=np.full(features, 0.05, np.float32),
    )
    return place / "params.npz"
