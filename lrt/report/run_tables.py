"""Tables of the run itself: models, their checks, wall time, analyses that failed."""

from __future__ import annotations

from lrt.report.contents import Results
from lrt.report.numerals import count
from lrt.report.table import Cell, Table


def model_table(results: Results) -> Table:
    """Size, training and cross-entropy of the models."""
    rows: list[tuple[Cell, ...]] = [
        (
            str(m["name"]),
            count(m.get("parameters")),
            m.get("depth"),
            m.get("width"),
            count(m.get("tokens_seen")),
            m.get("hours"),
            m.get("cross_entropy"),
            m.get("grammar_entropy"),
            m.get("note") or "",
        )
        for m in results.get("models") or []
    ]
    return Table(
        "Models",
        (
            "model",
            "parameters",
            "layers",
            "width",
            "training tokens",
            "hours",
            "cross-entropy",
            "entropy of the grammar",
            "note",
        ),
        tuple(rows),
    )


def check_table(results: Results) -> Table:
    """Every check of every model on held-out documents."""
    rows: list[tuple[Cell, ...]] = [
        (
            str(m["name"]),
            str(c["name"]).replace("_", " "),
            c.get("value"),
            f"{relation_sign(c.get('relation'))} {c['limit']:g}" if c.get("limit") is not None else None,
            "passed" if c.get("passed") else "failed",
        )
        for m in results.get("models") or []
        for c in m.get("checks") or []
    ]
    return Table(
        "Checks of the models",
        ("model", "check", "measured", "limit", "verdict"),
        tuple(rows),
        ("model", "check", "verdict"),
    )


def relation_sign(relation: str | None) -> str:
    """`>=` and `<=` as one sign."""
    return {">=": "≥", "<=": "≤"}.get(relation or "", relation or "")


def seconds_table(results: Results) -> Table:
    """Wall time of every stage. A cached stage shows the time of loading it."""
    seconds = results.get("seconds") or {}
    rows: list[tuple[Cell, ...]] = [(str(stage).replace("_", " "), value) for stage, value in seconds.items()]
    return Table(
        "Seconds by stage; of a cached stage, the time of loading it", ("stage", "seconds"), tuple(rows)
    )


def notes_table(results: Results) -> Table:
    """Analyses that were requested and failed, and why."""
    rows: list[tuple[Cell, ...]] = [
        (str(name).replace("_", " "), str(why)) for name, why in (results.get("notes") or {}).items()
    ]
    return Table("Analyses that failed", ("analysis", "reason"), tuple(rows))
