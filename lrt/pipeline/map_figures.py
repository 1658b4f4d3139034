"""Figures of a map on the rows of a corpus, beside those of the reference ridge."""

from __future__ import annotations

from typing import Any

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, excess, gcv_curve, shuffled_fvu
from lrt.pipeline.fit_data import FitData


def map_figures(data: FitData, affine: AffineMap) -> dict[str, Any]:
    """FVU on test and validation rows and on single tokens, beside the reference ridge's."""
    reference, test = data.reference_ridge, data.moments["test"]
    optimum = test.fvu_of(reference.map)
    fvu = optimum if affine is reference.map else test.fvu_of(affine)
    return {
        "fvu": fvu,
        "r2": 1 - fvu,
        "optimum_fvu": optimum,
        "excess_over_optimum": excess(fvu, optimum),
        "ridge_weight": reference.weight,
        "fvu_shuffled": shuffled_fvu(data.ridge, data.train_moments, reference.weight, test),
        **_cross_validated(data),
        "fvu_validation": data.moments["validation"].fvu_of(affine),
        "fvu_tokens": data.token_moments["kept"].fvu_of(affine),
        "fvu_unfiltered": data.token_moments["unfiltered"].fvu_of(affine),
    }


def _cross_validated(data: FitData) -> dict[str, float | None]:
    """The weight that generalised cross-validation would choose, and its FVU: a diagnostic of how far
    neighbouring rows are from independent."""
    weights = data.reference_ridge.weights[data.reference_ridge.weights > 0]
    try:
        curve = gcv_curve(data.ridge, data.train_moments, weights)
    except InvalidValue:  # as many degrees of freedom as rows
        return {"gcv_weight": None, "gcv_fvu": None}
    weight = float(weights[int(curve.argmin())])
    fvu = data.moments["test"].fvu_of(data.ridge.map_at(data.train_moments, weight))
    return {"gcv_weight": weight, "gcv_fvu": fvu}
