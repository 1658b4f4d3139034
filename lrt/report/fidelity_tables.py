"""Tables of the target model run on mapped states, and of the model stitched from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrt.report.contents import Results
from lrt.report.numerals import count
from lrt.report.table import Cell, Table


def fidelity_table(results: Results) -> Table:
    """Predictions of the target from mapped states, beside the untouched models and the mean state.

    A map that could not be fitted has a row with the reason (`notes` of the results, by map).
    """
    fidelity = results.get("fidelity") or {}
    fitted = fidelity.get("rows") or []
    notes = fidelity.get("notes") or {}
    rows: list[tuple[Cell, ...]] = [
        (
            row["name"],
            row.get("fvu"),
            estimate_value(row.get("cross_entropy")),
            estimate_value(row.get("kl")),
            estimate_value(row.get("agreement")),
            estimate_value(row.get("loss_recovered")),
            estimate_interval(row.get("loss_recovered")),
            row.get("note") or "",
        )
        for row in fitted
    ]
    rows += [(name, None, None, None, None, None, None, str(reason)) for name, reason in notes.items()]
    return Table(
        f"The target run on from layer {fidelity.get('layer')}",
        (
            "state at the layer",
            "FVU",
            "cross-entropy",
            "KL",
            "top-1 agreement",
            "loss recovered",
            "95% interval",
            "how it was fitted",
        ),
        tuple(rows),
        ("state at the layer", "loss recovered", "95% interval", "cross-entropy", "FVU"),
    )


def stitching_table(results: Results) -> Table:
    """Size and cross-entropy of the stitched model at every depth, beside both models alone."""
    fidelity = results.get("fidelity") or {}
    alone = {row["name"]: estimate_value(row.get("cross_entropy")) for row in fidelity.get("rows") or []}
    depths = fidelity.get("stitching_depths") or []
    rows: list[tuple[Cell, ...]] = []
    for side in ("source", "target"):
        if depths and side in alone:
            cost = depths[0]["cost"][side]
            size = count(cost["parameters"]), count(cost["flops_per_token"])
            rows.append((f"{side} alone", None, *size, alone[side], None))
    for depth in depths:
        cost = depth["cost"]["stitched"]
        rows.append(
            (
                f"stitched at layer {depth['layer']}",
                depth["depth"],
                count(cost["parameters"]),
                count(cost["flops_per_token"]),
                estimate_value(depth["cross_entropy"]),
                estimate_interval(depth["cross_entropy"]),
            )
        )
    return Table(
        "Stitched models: early layers of the source, the map, late layers of the target",
        ("model", "stitching depth", "parameters", "FLOPs per token", "cross-entropy", "95% interval"),
        tuple(rows),
        ("model", "cross-entropy", "95% interval", "FLOPs per token"),
    )


def estimate_value(estimate: Mapping[str, Any] | None) -> float | None:
    """The value of an estimate with its interval."""
    return None if estimate is None else estimate["value"]


def estimate_interval(estimate: Mapping[str, Any] | None) -> str | None:
    """`0.12 to 0.45` of an estimate with its interval."""
    return None if estimate is None else f"{estimate['low']:.3g} to {estimate['high']:.3g}"
