"""What the report suggests for a behaviour whose native or transferred vector does not steer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lrt.evaluation import (
    Behaviour,
    NativeTrials,
    NextStep,
    PromptsRead,
    StrengthGrid,
    TransferFacts,
    Trial,
    transferred_trials,
)
from lrt.models.prompts import encode_prompts
from lrt.models.sides import Side
from lrt.pipeline.choices import Choices
from lrt.pipeline.evaluation import Studied, Studies

TOKENS_SHOWN = 3  # of each side, the most frequent


def next_steps(
    studied: Studied, summary: Mapping[str, Any], studies: Studies, card: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What was tried and what to try next, as plain data; None where native and transferred vector steer.

    summary  Of the behaviour, by `lrt.evaluation.summarise`.
    card     Of the map that transfers its vector.
    """
    if not summary["steers"]:
        return _of_native(studied, summary, studies)
    low, high = (studied.behaviour.direction * bound for bound in summary["transferred_change_ci"])
    return None if min(low, high) > 0 else _of_transferred(studied, summary, studies, card)


def _of_native(studied: Studied, summary: Mapping[str, Any], studies: Studies) -> dict[str, Any]:
    behaviour, choices = studied.behaviour, studies.choices
    chosen = choices.of(behaviour)
    trials = chosen.choice.trials
    layers = sorted({trial.layer for trial in trials})
    prompts = prompts_read(behaviour, choices, "target", layers)
    grid = studies.settings.grid.of(behaviour)
    untried = [layer for layer in range(choices.pair.target.depth) if layer not in layers]
    unsteered = [
        row.value if row.probability is None else row.probability
        for row in chosen.measurements
        if row.strength == 0.0 and not math.isnan(row.value)
    ]
    facts = NativeTrials(
        behaviour,
        trials,
        grid,
        prompts,
        unsteered,
        untried,
        (summary["native"] - summary["unsteered"], *summary["native_change_ci"]),
        {name: share for name, share in summary["nulls"].items() if name in summary["voiding_nulls"]},
    )
    return {
        **_shared("native", trials, grid, facts.steps()),
        "split": "development",
        "items": len(unsteered),
        "prompts": prompts.to_data(),
        "layers_not_tried": untried,
    }


def _of_transferred(
    studied: Studied, summary: Mapping[str, Any], studies: Studies, card: Mapping[str, Any]
) -> dict[str, Any]:
    behaviour, choices = studied.behaviour, studies.choices
    grid, limits = studies.settings.grid.of(behaviour), studies.forecasts.settings
    metrics, contrast, layer = card["metrics"], behaviour.contrast, summary["layer"]
    along = metrics["error_along"]
    fit = {
        "name": studied.fit.name,
        "fvu": metrics["fvu"],
        "error_along": along.get(contrast, along.get(f"{contrast}@{layer}")),
        "parts": list(studied.fit.data.parts),
    }
    source, read = None, choices.vectors.layers.source.layers
    if "source" in choices.pair.steered:
        own = choices.of(behaviour, "source").choice
        source, read = {"layer": own.layer, "steers": own.steers}, (own.layer,)
    facts = TransferFacts(
        behaviour,
        grid,
        studied.forecast,
        limits.least_signal_to_noise(behaviour.is_choice),
        limits.residual_on_prompts,
        fit,
        source,
        transferred_trials(studied.study, studies.seed),
        summary["whole_corpus_ratio_ci"],
    )
    return {
        **_shared("transferred", facts.curve, grid, facts.steps()),
        "split": studied.study.split,
        "items": summary["items"],
        "prompts": prompts_read(behaviour, choices, "source", read).to_data(),
        "map": fit,
        "source": source,
    }


def _shared(
    vector: str, trials: Sequence[Trial], grid: StrengthGrid, steps: Sequence[NextStep]
) -> dict[str, Any]:
    return {
        "vector": vector,
        "damage_limit": grid.damage_limit,
        "tried": [asdict(trial) | {"damaged": trial.damage > grid.damage_limit} for trial in trials],
        "suggestions": [step._asdict() for step in steps],
    }


def prompts_read(behaviour: Behaviour, choices: Choices, side: Side, layers: Sequence[int]) -> PromptsRead:
    """The prompts of a behaviour's vector of one model, and how far they separate at the layers."""
    both = choices.vectors.states[behaviour.contrast]
    states = both.target if side == "target" else both.source
    tokenizer, behaviour = choices.pair.models[side].tokenizer, choices.pair.read_by(side, behaviour)

    def ends(prompts: Sequence[str]) -> tuple[tuple[str, int], ...]:
        tokens = (tokenizer.decode(ids[-1:]) for ids in encode_prompts(tokenizer, prompts))
        return tuple(Counter(tokens).most_common(TOKENS_SHOWN))

    return PromptsRead(
        len(behaviour.positives),
        len(behaviour.negatives),
        ends(behaviour.positives),
        ends(behaviour.negatives),
        {layer: states.signal_to_noise(layer) for layer in layers},
    )
