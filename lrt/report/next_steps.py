"""What to try next for the behaviours that are not steered: what was tried, and suggestions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import figure, interval, share
from lrt.report.palette import behaviour_name
from lrt.report.table import Cell, Table

NO_RULE = "no rule applies to these figures"


@dataclass(frozen=True)
class NextSteps:
    """One behaviour's section.

    facts  What was read and how it is measured, a sentence each.
    """

    name: str
    title: str
    facts: tuple[str, ...]
    tried: Table
    suggestions: Table

    def brief(self) -> Table:
        """Facts and suggestions as one table, for a terminal."""
        steps = (
            f"{action} ({because})" if because else str(action) for action, because in self.suggestions.rows
        )
        rows = (*(("read", fact) for fact in self.facts), *(("try", step) for step in steps))
        return Table(self.suggestions.title, ("", "what to try next"), rows)


def next_steps(results: Results) -> list[NextSteps]:
    """A section for every behaviour whose native or transferred vector does not steer."""
    return [
        _section(behaviour, steps)
        for behaviour in results.get("behaviours") or []
        if (steps := behaviour.get("next_steps"))
    ]


def _section(behaviour: Mapping[str, Any], steps: Mapping[str, Any]) -> NextSteps:
    name = behaviour_name(behaviour["name"])
    vector = steps["vector"]
    title = f"{name}: the {vector} vector does not steer"
    tried: list[tuple[Cell, ...]] = [
        (
            trial["layer"],
            trial["strength"],
            trial["change"],
            interval((trial["low"], trial["high"])),
            share(trial["damage"]),
            "over the limit" if trial["damaged"] else "",
        )
        for trial in steps.get("tried") or []
    ]
    suggestions: list[tuple[Cell, ...]] = [
        (step["action"], step["because"]) for step in steps.get("suggestions") or []
    ]
    return NextSteps(
        behaviour["name"],
        title,
        tuple(_facts(steps, behaviour.get("forecast") or {})),
        Table(
            f"{title}: tried on {steps['items']} {steps['split']} items",
            ("layer", "strength", "change", "95% interval", "damage", "damage limit"),
            tuple(tried),
            ("layer", "strength", "change", "95% interval", "damage", "damage limit"),
        ),
        Table(f"{name}: what to try next", ("try", "because"), tuple(suggestions) or ((NO_RULE, ""),)),
    )


def _facts(steps: Mapping[str, Any], forecast: Mapping[str, Any]) -> list[str]:
    prompts = steps["prompts"]
    facts = [
        f"Vector of {prompts['positives']} positive and {prompts['negatives']} negative prompts, read at the "
        f"{prompts['position']}: {_tokens(prompts, 'positive')}; {_tokens(prompts, 'negative')}.",
        "Signal to noise of the vector over its prompts (about 1 by chance): "
        + ", ".join(f"layer {layer} {figure(v)}" for layer, v in prompts["signal_to_noise"].items())
        + ".",
        f"A strength may be chosen up to a damage of {share(steps['damage_limit'])}.",
    ]
    if steps.get("layers_not_tried"):
        facts.append(f"Layers not tried: {', '.join(map(str, steps['layers_not_tried']))}.")
    if fit := steps.get("map"):
        along, parts = fit.get("error_along"), fit.get("parts")
        facts.append(
            f"Map: {fit['name']}, fitted on {', '.join(parts) if parts else 'all parts of the corpus'}; FVU "
            f"{figure(fit.get('fvu'))}, along the native vector {figure(along)}."
        )
        facts.append(
            f"Forecast: signal to noise over documents {figure(forecast.get('signal_to_noise'))}, residual "
            f"on the prompts {share(forecast.get('residual_on_prompts'))}; "
            f"{'it warned' if forecast.get('warning') else 'no warning'}."
        )
    if source := steps.get("source"):
        does = "steers" if source["steers"] else "does not steer"
        facts.append(f"The source's own vector {does} the source, at layer {source['layer']}.")
    return facts


def _tokens(prompts: Mapping[str, Any], side: str) -> str:
    return f"{side} " + ", ".join(f"{token!r} ({count})" for token, count in prompts[f"{side}_tokens"])
