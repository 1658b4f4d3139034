"""The heatmap of an atlas on a page: a cell for every pair of layers, which opens its numbers."""

from __future__ import annotations

from typing import Any

from lrt.report.contents import Results
from lrt.report.layer_tables import HIGHER_IS_BETTER, atlas_metrics, atlas_value
from lrt.report.numerals import figure
from lrt.report.palette import behaviour_name

WITH_TEXT = 16  # layers across: more leave no room for a cell's value
FIRST = "along"  # the metric that is shown first, where there are vectors


def atlas_heatmap(results: Results) -> dict[str, Any] | None:
    """Grid and numbers of the atlas as the template takes them; None without an atlas.

    Each metric has a text and a height in [0, 1] for every cell, the best cell highest; cells without a
    value have the height None.
    """
    cells = results.get("atlas") or []
    if not cells:
        return None
    sources, targets = ([*dict.fromkeys(c[f"{side}_layer"] for c in cells)] for side in ("source", "target"))
    places = {(c["source_layer"], c["target_layer"]): i for i, c in enumerate(cells)}
    metrics = [_metric(results, name, title) for name, title in atlas_metrics(results).items()]
    metrics.sort(key=lambda metric: metric["name"] != FIRST)  # stable: the others keep their order
    return {
        "targets": targets,
        "rows": [(source, [places.get((source, target)) for target in targets]) for source in sources],
        "with_text": len(targets) <= WITH_TEXT,
        "data": {
            "metrics": metrics,
            "columns": ["vector", "error along it", "cosine with native"],
            "cells": [
                {
                    "title": f"Layer {c['source_layer']} to {c['target_layer']}",
                    "vectors": [
                        [behaviour_name(name), figure(error), figure((c.get("cosine") or {}).get(name))]
                        for name, error in (c.get("error_along") or {}).items()
                    ],
                }
                for c in cells
            ],
        },
    }


def _metric(results: Results, name: str, title: str) -> dict[str, Any]:
    values = [atlas_value(cell, name) for cell in results["atlas"]]
    present = [value for value in values if value is not None]
    low, span = min(present), max(present) - min(present)
    return {
        "name": name,
        "title": title,
        "texts": [figure(value) for value in values],
        "heights": [None if value is None else _height(name, value, low, span) for value in values],
    }


def _height(metric: str, value: float, low: float, span: float) -> float:
    height = (value - low) / span if span > 0 else 0.5
    return round(height if metric in HIGHER_IS_BETTER else 1 - height, 3)
