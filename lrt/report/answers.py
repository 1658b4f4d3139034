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
    rows: list[tuple[Cell, ...]] = [
        (behaviour_name(b["name"]), *(cell for _, cell in _propensity(p)))
        for b in results.get("behaviours") or []
        if (p := b.get("propensity"))
    ]
    columns = ("trait", *(column for column, _ in _propensity({})))
    return Table("Multiple-choice propensity", columns, tuple(rows))


def _propensity(p: Mapping[str, Any]) -> tuple[tuple[str, Cell], ...]:
    """Every column beside its cell."""
    random, shift = p.get("stratified_r_random") or {}, p.get("key_shift") or {}
    return (
        ("paper's r", _mean(_steered(p, "paper_r"))),
        ("random's r", _mean(_steered(p, "paper_r_random"))),
        ("paper's MSE", _mean(_steered(p, "paper_mse"))),
        ("paper's r, probability", _mean(_steered(p, "paper_r_probability"))),
        ("paper's MSE, probability", _mean(_steered(p, "paper_mse_probability"))),
        ("r within key", p.get("stratified_r")),
        ("interval of it", interval(p.get("stratified_r_ci"))),
        ("r, m(0) out", p.get("stratified_r_partial")),
        ("random |r|", random.get("mean")),
        ("random p95", random.get("p95")),
        ("ceiling", p.get("ceiling")),
        ("interval of it", interval(p.get("ceiling_ci"))),
        ("r within key, probability", p.get("stratified_r_probability")),
        ("native slope", p.get("native_slope")),
        ("interval", interval(p.get("native_slope_ci"))),
        ("slope", p.get("slope")),
        ("slope ratio", p.get("slope_ratio")),
        ("interval", share_interval(p.get("slope_ratio_ci"))),
        ("slope, random", (p.get("slope_ratio_random") or {}).get("mean")),
        ("anti-steerable", p.get("anti_steerable")),
        ("interval of anti-steerable", share_interval(p.get("anti_steerable_ci"))),
        ("anti, native", p.get("native_anti_steerable")),
        ("interval of anti, native", share_interval(p.get("native_anti_steerable_ci"))),
        ("anti, random", p.get("random_anti_steerable")),
        ("anti within key", p.get("anti_steerable_within_key")),
        ("interval of anti within key", share_interval(p.get("anti_steerable_within_key_ci"))),
        ("anti within key, native", p.get("native_anti_steerable_within_key")),
        ("interval of anti within key, native", share_interval(p.get("native_anti_steerable_within_key_ci"))),
        ("anti within key, random", p.get("random_anti_steerable_within_key")),
        ("shift of the key, native", shift.get("native")),
        ("of it, transferred", shift.get("transferred")),
        ("of it, random", shift.get("random")),
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
