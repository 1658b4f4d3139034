"""Tables of answers that have keys: the paper's Table 1 and what has a null beside it, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import interval, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table


def propensity_table(results: Results) -> Table:
    """Multiple choice: the paper's statistics beside those that have a null."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        p = b.get("propensity")
        if not p:
            continue
        random, shift = p.get("stratified_r_random") or {}, p.get("key_shift") or {}
        rows.append(
            (
                behaviour_name(b["name"]),
                _mean(_steered(p, "paper_r")),
                _mean(_steered(p, "paper_r_random")),
                _mean(_steered(p, "paper_mse")),
                _mean(_steered(p, "paper_r_probability")),
                _mean(_steered(p, "paper_mse_probability")),
                p.get("stratified_r"),
                interval(p.get("stratified_r_ci")),
                p.get("stratified_r_partial"),
                random.get("mean"),
                random.get("p95"),
                p.get("ceiling"),
                interval(p.get("ceiling_ci")),
                p.get("stratified_r_probability"),
                p.get("native_slope"),
                interval(p.get("native_slope_ci")),
                p.get("slope"),
                p.get("slope_ratio"),
                share_interval(p.get("slope_ratio_ci")),
                (p.get("slope_ratio_random") or {}).get("mean"),
                p.get("anti_steerable"),
                share_interval(p.get("anti_steerable_ci")),
                p.get("native_anti_steerable"),
                share_interval(p.get("native_anti_steerable_ci")),
                p.get("random_anti_steerable"),
                p.get("anti_steerable_within_key"),
                share_interval(p.get("anti_steerable_within_key_ci")),
                p.get("native_anti_steerable_within_key"),
                share_interval(p.get("native_anti_steerable_within_key_ci")),
                p.get("random_anti_steerable_within_key"),
                shift.get("native"),
                shift.get("transferred"),
                shift.get("random"),
            )
        )
    return Table(
        "Multiple-choice propensity",
        (
            "trait",
            "paper's r",
            "random's r",
            "paper's MSE",
            "paper's r, probability",
            "paper's MSE, probability",
            "r within key",
            "interval of it",
            "r, m(0) out",
            "random |r|",
            "random p95",
            "ceiling",
            "interval of it",
            "r within key, probability",
            "native slope",
            "interval",
            "slope",
            "slope ratio",
            "interval",
            "slope, random",
            "anti-steerable",
            "interval of anti-steerable",
            "anti, native",
            "interval of anti, native",
            "anti, random",
            "anti within key",
            "interval of anti within key",
            "anti within key, native",
            "interval of anti within key, native",
            "anti within key, random",
            "shift of the key, native",
            "of it, transferred",
            "of it, random",
        ),
        tuple(rows),
    )


def paper_table(results: Results) -> Table:
    """The paper's Table 1, sample-wise r and MSE at every strength, and r within the answer key, each with
    its interval and beside that of random vectors."""
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
            at_strength = {name: p[name][i] for name in _PAPER if p.get(name)}
            cells = [interval(at_strength.get(n)) if n.endswith("ci") else at_strength.get(n) for n in _PAPER]
            told = within.get(strength, (None, interval(None), None))
            rows.append((behaviour_name(b["name"]), strength, *cells[:3], *told, *cells[3:]))
    return Table(
        "The paper's statistics by strength, and r within the answer key",
        (
            "trait",
            "strength",
            "paper's r",
            "interval",
            "random's r",
            "r within key",
            "interval of it",
            "random's |r| within key",
            "paper's MSE",
            "its interval",
            "random's MSE",
            "paper's r, probability",
            "interval of r, probability",
            "paper's MSE, probability",
            "interval of MSE, probability",
        ),
        tuple(rows),
    )


_PAPER = (
    "paper_r",
    "paper_r_ci",
    "paper_r_random",
    "paper_mse",
    "paper_mse_ci",
    "paper_mse_random",
    "paper_r_probability",
    "paper_r_probability_ci",
    "paper_mse_probability",
    "paper_mse_probability_ci",
)


def probability_table(results: Results) -> Table:
    """Mean probabilities of what is sought, of behaviours that are read off logits."""
    conditions = ("none", "native", "transferred", "paper_literal", "random", "shuffled", "prompt", "source")
    rows: list[tuple[Cell, ...]] = [
        (behaviour_name(b["name"]), b.get("strength"), *(p.get(c) for c in conditions))
        for b in results.get("behaviours") or []
        if (p := b.get("probability"))
    ]
    return Table("Probabilities", ("behaviour", "strength", *map(condition_name, conditions)), tuple(rows))


def _steered(propensity: Mapping[str, Any], name: str) -> list[float | None]:
    """Values at nonzero strengths: at 0 both are the unsteered model, and r is 1 by construction."""
    strengths, values = propensity.get("strengths") or [], propensity.get(name) or []
    return [value for s, value in zip(strengths, values, strict=False) if s != 0]


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None
