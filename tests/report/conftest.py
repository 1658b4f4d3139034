"""Results of a run as an evaluation returns them: ten behaviours, one of which does not steer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

STRENGTHS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
TEXTS = {
    "french": ("share of French words", 1, 0.02, 0.97, 0.95),
    "capitals": ("share of capital letters", 1, 0.04, 0.98, 0.91),
    "dogs": ("dog words a sentence", 1, 0.11, 1.62, 1.31),
    "mood": ("share of happy endings", 1, 0.48, 0.93, 0.84),
    "refusal_removed": ("share of refusals of harmful ones", -1, 0.99, 0.05, 0.17),
    "refusal_induced": ("share of refusals of harmless requests", 1, 0.01, 0.96, 0.62),
}
TRAITS = {"brave": (-0.3, 3.1, 2.8), "tidy": (0.2, 2.6, 2.5), "generous": (0.5, 2.2, 1.6)}


def _curve(base: float, top: float, chosen: float, spread: float) -> list[dict[str, float]]:
    points = []
    for s in STRENGTHS:
        mean = base + (top - base) * np.tanh(1.6 * s / chosen) / np.tanh(1.6)
        points.append({"strength": s, "mean": mean, "low": mean - spread, "high": mean + spread})
    return points


def behaviour(name: str, rng: np.random.Generator) -> dict[str, Any]:
    choice = name in TRAITS
    if choice:
        base, native, ours = TRAITS[name]
        metric, direction = f"logit of the {name} answer minus the other one", 1
    else:
        metric, direction, base, native, ours = TEXTS[name]
    ratio = (ours - base) / (native - base)
    spread = 0.05 * abs(native - base)
    nulls = {
        n: {"mean": m, "p95": 2.1 * m, "draws": d}
        for n, m, d in (
            ("random", 0.04 + 0.05 * rng.random(), 20),
            ("bias", 0.16 * rng.random(), 1),
            ("shuffled", 0.05 + 0.09 * rng.random(), 5),
            ("other", 0.2 * rng.random(), 1),
            ("untrained_source", 0.1 * rng.random(), 1),
        )
    }
    damage = {"native": 0.061, "transferred": 0.048, "paper_literal": 0.07, "random": 0.02}
    summary: dict[str, Any] = {
        "name": name,
        "metric": metric,
        "kind": "choice" if choice else "text",
        "direction": direction,
        "items": 64,
        "layer": 3,
        "layers_tried": [
            {"layer": 3, "native_change": 0.7, "steers": True},
            {"layer": 2, "native_change": 0.2, "steers": False},
        ],
        "strength": 0.75,
        "strengths_tried": 5,
        "unsteered": base,
        "native": native,
        "transferred": ours,
        "paper_literal": 0.9 * ours + 0.1 * base,
        "native_change_ci": [native - base - spread, native - base + spread],
        "steers": True,
        "ratio": ratio,
        "ratio_ci": [ratio - 0.06, ratio + 0.05],
        "ratio_ci_map": [ratio - 0.13, ratio + 0.1],
        "ratio_refits": [ratio - 0.1, ratio - 0.02, ratio - 0.2],
        "nulls": {n: share["mean"] for n, share in nulls.items()},
        "null_details": nulls,
        "damage": {
            c: {"rise": 2.1 * r, "relative": r, "kl": 0.8 * r}
            for c, r in {**damage, "shuffled": 0.03}.items()
        },
        "curves": {
            "native": _curve(base, native, 0.75, spread),
            "transferred": _curve(base, ours, 0.75, spread),
            "paper_literal": _curve(base, 0.9 * ours + 0.1 * base, 0.75, spread),
            "random": _curve(base, base + 0.04 * (native - base), 0.75, spread),
            "source": _curve(1.1 * base, 0.93 * native, 0.75, spread),
        },
        "damage_curves": {
            c: [
                {"strength": s, "relative": r * (s / 0.75) ** 2, "kl": r, "rise": r}
                for s in STRENGTHS
                if s != 0 or c == "native"
            ]
            for c, r in damage.items()
        },
        "dose": {
            "effect": 0.5 * abs(native - base),
            "native_strength": 0.3,
            "largest_strength": 0.75,
            "conditions": {
                "transferred": {
                    "ratio": 0.9,
                    "below": None,
                    "ci": [0.8, 1.0],
                    "share": 0.95,
                    "share_ci": [0.9, 1.0],
                },
                "untrained_source": {
                    "ratio": None,
                    "below": 0.4,
                    "ci": [0.0, 0.4],
                    "share": 0.1,
                    "share_ci": [0.05, 0.15],
                },
            },
            "above_untrained": [0.4, 1.0],
            "above_untrained_items": [0.5, 0.9],
            "untrained_draws": 2,
            "strongest_untrained": 1,
            "excess": {
                "value": ratio - 0.3,
                "ci": [ratio - 0.4, ratio - 0.2],
                "null": "bias",
                "null_share": 0.2,
            },
        },
        "null_causes": {
            "other": {
                "cause": "alignment",
                "share": 0.29,
                "cosine": 0.4,
                "projection": 0.16,
                "predicted": 0.25,
                "rest": 0.04,
                "rest_ci": [-0.02, 0.1],
                "explained": 0.9,
                "damage": 0.01,
                "draws": 1,
                "draws_off_zero": 1,
                "behaviour": "dogs",
                "cosine_of_natives": 0.35,
            }
        }
        if name == "mood"
        else {},
        "verdict": "transferred",
        "prompt_ratio": 0.5,
        "prompt_ratio_ci": [0.4, 0.6],
        "map": "stories",
        "whole_corpus": base + 0.6 * (ours - base),
        "whole_corpus_ratio": 0.6 * ratio,
        "whole_corpus_ratio_ci": [0.5 * ratio, 0.7 * ratio],
        "note": "",
        "source": 0.93 * native,
        "prompt": 0.5 * native + 0.5 * base,
        "source_unsteered": 1.1 * base,
    }
    if choice:
        summary["probability"] = {"none": 0.45, "native": 0.9, "transferred": 0.85, "prompt": 0.7}
        summary["propensity"] = {
            "strengths": list(STRENGTHS),
            "paper_r": [0.91, 0.95, 1.0, 0.98, 0.96, 0.94, 0.92, 0.88],
            "paper_mse": [0.4, 0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.9],
            "paper_r_ci": [[0.85, 0.96]] * 8,
            "paper_r_random": [0.88, 0.93, 1.0, 0.97, 0.95, 0.92, 0.88, 0.83],
            "paper_mse_random": [0.5, 0.3, 0.0, 0.2, 0.3, 0.4, 0.5, 1.2],
            "paper_r_probability": [0.8, 0.9, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7],
            "paper_mse_probability": [0.04, 0.02, 0.0, 0.01, 0.02, 0.03, 0.04, 0.09],
            "stratified_r_at": {
                "strengths": [s for s in STRENGTHS if s != 0],
                "value": [0.5, 0.6, 0.7, 0.8, 0.85, 0.8, 0.75],
                "ci": [[0.4, 0.9]] * 7,
                "random": [0.1] * 7,
            },
            "stratified_r": 0.81,
            "stratified_r_ci": [0.7, 0.88],
            "stratified_r_partial": 0.78,
            "stratified_r_random": {"mean": 0.19, "p95": 0.44, "draws": 20},
            "ceiling": 0.9,
            "slope": 2.0,
            "native_slope": 2.2,
            "slope_ratio": 0.91,
            "slope_ratio_ci": [0.86, 0.97],
            "slope_ratio_random": {"mean": 0.04, "p95": 0.1, "draws": 20},
            "anti_steerable": 0.03,
            "anti_steerable_ci": [0.01, 0.06],
            "native_anti_steerable": 0.0,
            "random_anti_steerable": 0.48,
            "anti_steerable_within_key": 0.02,
            "native_anti_steerable_within_key": 0.01,
            "key_shift": {"native": 0.4, "transferred": 0.35, "random": 0.1},
        }
    else:
        if name.startswith("refusal"):
            summary["rescored"] = [
                {
                    "scorer": "judge",
                    "items": 63,
                    "unscored": 1,
                    "means": {"none": 0.97, "native": 0.31, "transferred": 0.38},
                    "ratio": 0.89,
                    "ratio_ci": [0.8, 0.97],
                    "curves": {},
                },
                {"scorer": "classifier", "items": 0, "unscored": 64},
            ]
        lines = "the little fox met Anna by the river . they shared a warm loaf and sang ."
        steered = "le petit renard retrouva Anna au bord de la rivière . ils chantèrent ."
        summary["examples"] = [
            {
                "prompt": f"Once upon a time {who} lived near the mill .",
                "texts": [
                    {"condition": "none", "strength": 0.0, "text": lines},
                    *(
                        {"condition": c, "strength": s, "text": steered if s > 0.5 else lines}
                        for s in (0.5, 0.75, 1.0)
                        for c in ("native", "transferred")
                    ),
                    {"condition": "shuffled", "strength": 0.75, "text": lines},
                ],
            }
            for who in ("a hen", "Mr. Brown", "the baker's cat")
        ]
    return summary


@pytest.fixture
def results(whole_record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run, to be altered at will."""
    return copy.deepcopy(whole_record)


@pytest.fixture(scope="session")
def whole_record() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    behaviours = [behaviour(name, rng) for name in (*TEXTS, *TRAITS)]
    flat = behaviour("tidy", rng)
    flat |= {
        "name": "night_owl",
        "metric": "logit of the night answer minus the day one",
        "steers": False,
        "ratio": None,
        "ratio_ci": None,
        "ratio_ci_map": None,
        "whole_corpus_ratio": None,
        "whole_corpus_ratio_ci": None,
        "dose": None,
        "verdict": "native does not steer",
        "prompt_ratio": None,
        "prompt_ratio_ci": None,
        "nulls": {},
        "null_details": {},
        "null_causes": {},
        "native": 0.31,
        "transferred": 0.24,
        "note": "native does not steer; no strength keeps the native vector undamaged",
    }
    flat["propensity"] = {**flat["propensity"], "slope_ratio": None, "slope_ratio_ci": None}
    steps = np.arange(1, 400)
    evaluations = [
        {
            "behaviour": name,
            "native": 0.95,
            "unsteered": 0.03,
            "points": [[s, 0.03 + 0.85 * (1 - np.exp(-s / 90))] for s in range(0, 401, 80)],
        }
        for name in ("french", "capitals", "refusal_removed", "brave")
    ]
    checks = [
        ("refusal_of_harmful_requests", 0.991, 0.95, ">=", True),
        ("refusal_of_harmless_requests", 0.004, 0.03, "<=", True),
        ("language_kept", 0.985, 0.95, ">=", True),
        ("case_kept", 1.0, 0.95, ">=", True),
    ]
    return {
        "pair": {
            "name": "small-to-large",
            "source": {"name": "storybook-small", "depth": 4, "width": 96, "parameters": 640_000},
            "target": {
                "name": "storybook-large",
                "depth": 6,
                "width": 192,
                "parameters": 3_100_000,
            },
        },
        "layers": {"source": [1, 2], "target": [3]},
        "pool": 16,
        "map": {
            "kind": "full",
            "fvu": 0.4123,
            "r2": 0.5877,
            "cosine": 0.81,
            "excess_over_optimum": 0.0123,
            "optimum_fvu": 0.4073,
            "ridge_weight": 31.6,
            "gcv_weight": 7.9,
            "gcv_fvu": 0.4211,
            "note": "ridge regression, exact; weight chosen on the validation rows",
            "rows": 298_112,
            "rows_excluded": 1_888,
            "rows_excluded_by": {"first_position": 1_172, "massive": 716},
            "fvu_unfiltered": 0.0712,
            "error_along": {b["name"]: 0.05 + 0.3 * rng.random() for b in behaviours},
            "fingerprint": "b1946ac92492d234",
        },
        "maps": [
            {
                "name": name,
                "fitted_for": fitted_for,
                "rows": rows,
                "fvu": fvu,
                "optimum_fvu": 0.99 * fvu,
                "excess_over_optimum": 0.0101,
                "fvu_tokens": 1.4 * fvu,
                "error_along": {b["name"]: 0.05 + 0.3 * rng.random() for b in behaviours},
                "cosine_with_native": {b["name"]: 0.9 for b in behaviours},
                "training": {"steering_evaluations": evaluations if fitted_for else []},
            }
            for name, fitted_for, rows, fvu in (
                ("whole corpus", [], 298_112, 0.4123),
                ("stories", [b["name"] for b in behaviours], 99_000, 0.31),
            )
        ],
        "behaviours": [*behaviours, flat],
        "models": [
            {
                "name": name,
                "parameters": parameters,
                "width": width,
                "depth": depth,
                "tokens_seen": 42_000_000,
                "hours": hours,
                "checks": [
                    {"name": n, "value": v, "limit": at, "relation": r, "passed": p}
                    for n, v, at, r, p in (
                        *checks,
                        ("trait_questions_right", right, 0.9, ">=", right >= 0.9),
                    )
                ],
                "cross_entropy": 1.41 - 0.1 * hours,
                "grammar_entropy": 1.18,
                "note": "" if right >= 0.9 else "too small for the trait questions, as its card says",
            }
            for name, parameters, width, depth, hours, right in (
                ("storybook-tiny", 310_000, 64, 3, 0.2, 0.71),
                ("storybook-small", 640_000, 96, 4, 0.4, 1.0),
                ("storybook-large", 3_100_000, 192, 6, 1.1, 1.0),
            )
        ],
        "training": {
            "train": [
                [int(s), float(0.41 + 0.6 * np.exp(-s / 40) + 0.01 * rng.standard_normal())] for s in steps
            ],
            "val": [[int(s), float(0.412 + 0.6 * np.exp(-s / 40))] for s in range(20, 401, 20)],
            "optimum": 0.4073,
            "steering_evaluations": evaluations,
        },
        "configurations_tried": {"layers": 9, "strengths": 5, "maps": 2},
        "seconds": {
            "record": 61.2,
            "fit": 38.4,
            "ridge": 2.2,
            "evaluate": 97.0,
            "report": 3.1,
        },
        "provenance": {
            "date": "2026-11-22 15:40 UTC",
            "command": "python train.py && python evaluate.py",
            "versions": {"lrt": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"},
            "fingerprints": {"store": "5d41402abc4b2a76", "map": "b1946ac92492d234"},
            "config": "pair: small-to-large\nlayers:\n  source: [1, 2]\n  target: 3\n",
            "machine": "2 cores, no GPU",
            "commit": None,
        },
    }


@pytest.fixture
def sweep_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for source in (1, 2, 3):
        for target in (2, 3, 4):
            rows.append(_job(len(rows), "small-to-large", source, target))
    rows[4] |= {
        "status": "failed",
        "error": "ValueError: layers.target=9 is not a block of <storybook-large>",
        "fvu": None,
        "r2": None,
        "excess_over_optimum": None,
        "ratios": {},
        "mean_ratio": None,
    }
    rows += [_job(9 + i, p, 2, 3) for i, p in enumerate(("tiny-to-small", "tiny-to-large"))]
    return rows


def _job(number: int, pair: str, source: int, target: int) -> dict[str, Any]:
    fvu = 0.35 + 0.03 * abs(source - target + 1) + 0.02 * source
    ratios = {"french": 0.99 - 0.1 * abs(source - 2), "refusal_removed": 0.6 + 0.05 * target}
    return {
        "job": number,
        "pair": pair,
        "source_layer": source,
        "target_layer": target,
        "fvu": fvu,
        "r2": 1 - fvu,
        "excess_over_optimum": 0.013,
        "ratios": ratios,
        "mean_ratio": sum(ratios.values()) / 2,
        "status": "ok",
        "error": None,
        "seconds": 42.0,
    }
