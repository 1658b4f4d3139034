"""Tables of multiple-choice behaviours: the paper's Table 1, r within the answer key, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import interval, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table


def propensity_table(results: Results) -> Table:
    """The paper's statistics (means over nonzero strengths) beside statistics with a null, per behaviour."""
    rows: list[tuple[Cell, ...]] = [
        (behaviour_name(b["name"]), *_propensity(p).values())
        for b in results.get("behaviours") or []
        if (p := b.get("propensity"))
    ]
    return Table(
        "Multiple-choice propensity",
        ("behaviour", *_propensity({})),
        tuple(rows),
        (
            "behaviour",
            "r within key",
            "|r| within key, random",
            "r within key, across prompts",
            "ceiling",
            "slope ratio",
            "95% interval, slope ratio",
            "anti-steerable",
            "paper's r",
            "paper's r, random",
            "paper's MSE",
            "95% interval, r within key",
        ),
    )


def _propensity(p: Mapping[str, Any]) -> dict[str, Cell]:
    """Cells by column, without the behaviour's name."""
    random, shift = p.get("stratified_r_random") or {}, p.get("key_shift") or {}
    return {
        "paper's r": _mean(_steered(p, "paper_r")),
        "paper's r, random": _mean(_steered(p, "paper_r_random")),
        "paper's MSE": _mean(_steered(p, "paper_mse")),
        "paper's r, probability": _mean(_steered(p, "paper_r_probability")),
        "paper's MSE, probability": _mean(_steered(p, "paper_mse_probability")),
        "r within key": p.get("stratified_r"),
        "95% interval, r within key": interval(p.get("stratified_r_ci")),
        "r within key, given m(0)": p.get("stratified_r_partial"),
        "|r| within key, random": random.get("mean"),
        "95th percentile, random": random.get("p95"),
        "r within key, across prompts": p.get("across_prompts_r"),
        "95% interval, across prompts": interval(p.get("across_prompts_r_ci")),
        "ceiling": p.get("ceiling"),
        "95% interval, ceiling": interval(p.get("ceiling_ci")),
        "r within key, probability": p.get("stratified_r_probability"),
        "native slope": p.get("native_slope"),
        "95% interval, native slope": interval(p.get("native_slope_ci")),
        "slope": p.get("slope"),
        "slope ratio": p.get("slope_ratio"),
        "95% interval, slope ratio": share_interval(p.get("slope_ratio_ci")),
        "slope ratio, random": (p.get("slope_ratio_random") or {}).get("mean"),
        "anti-steerable": p.get("anti_steerable"),
        "95% interval, anti-steerable": share_interval(p.get("anti_steerable_ci")),
        "anti-steerable, native": p.get("native_anti_steerable"),
        "95% interval, anti-steerable, native": share_interval(p.get("native_anti_steerable_ci")),
        "anti-steerable, random": p.get("random_anti_steerable"),
        "anti-steerable within key": p.get("anti_steerable_within_key"),
        "95% interval, anti-steerable within key": share_interval(p.get("anti_steerable_within_key_ci")),
        "anti-steerable within key, native": p.get("native_anti_steerable_within_key"),
        "95% interval, anti-steerable within key, native": share_interval(
            p.get("native_anti_steerable_within_key_ci")
        ),
        "anti-steerable within key, random": p.get("random_anti_steerable_within_key"),
        "shift of the key, native": shift.get("native"),
        "shift of the key, transferred": shift.get("transferred"),
        "shift of the key, random": shift.get("random"),
    }


# columns of the table by strength, and the statistics in them
_PAPER = {
    "paper's r": "paper_r",
    "95% interval, r": "paper_r_ci",
    "paper's r, random": "paper_r_random",
    "paper's MSE": "paper_mse",
    "95% interval, MSE": "paper_mse_ci",
    "paper's MSE, random": "paper_mse_random",
    "paper's r, probability": "paper_r_probability",
    "95% interval, r, probability": "paper_r_probability_ci",
    "paper's MSE, probability": "paper_mse_probability",
    "95% interval, MSE, probability": "paper_mse_probability_ci",
}
_WITHIN = ("r within key", "95% interval, r within key", "|r| within key, random")


def paper_table(results: Results) -> Table:
    """The paper's Table 1: sample-wise r and MSE at every strength, and r within the answer key.

    Each stands beside its interval and the value for random vectors.
    """
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        p = b.get("propensity") or {}
        at = p.get("stratified_r_at") or {"strengths": [], "value": [], "ci": [], "random": []}
        within = {
            strength: (value, interval(ci), random)
            for strength, value, ci, random in zip(
                at["strengths"], at["value"], at["ci"], at["random"], strict=True
            )
        }
        for i, strength in enumerate(p.get("strengths") or []):
            values = [p[name][i] if p.get(name) else None for name in _PAPER.values()]
            cells = [
                interval(value) if name.endswith("ci") else value
                for name, value in zip(_PAPER.values(), values, strict=True)
            ]
            rows.append(
                (
                    behaviour_name(b["name"]),
                    strength,
                    *cells[:3],
                    *within.get(strength, (None, interval(None), None)),
                    *cells[3:],
                )
            )
    names = tuple(_PAPER)
    return Table(
        "The paper's statistics by strength, and r within the answer key",
        ("behaviour", "strength", *names[:3], *_WITHIN, *names[3:]),
        tuple(rows),
    )


def probability_table(results: Results) -> Table:
    """Mean probability of the matching answer (of a refusal's opening), for behaviours read off logits."""
    conditions = ("none", "native", "transferred", "paper_literal", "random", "shuffled", "prompt", "source")
    rows: list[tuple[Cell, ...]] = [
        (behaviour_name(b["name"]), b.get("strength"), *(p.get(c) for c in conditions))
        for b in results.get("behaviours") or []
        if (p := b.get("probability"))
    ]
    names = tuple(map(condition_name, conditions))
    return Table("Probabilities", ("behaviour", "strength", *names), tuple(rows), ("behaviour", *names))


def _steered(propensity: Mapping[str, Any], name: str) -> list[float | None]:
    """Values at nonzero strengths: at 0 both are the unsteered model, and r is 1 by construction."""
    strengths, values = propensity.get("strengths") or [], propensity.get(name) or []
    return [value for s, value in zip(strengths, values, strict=False) if s != 0]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
