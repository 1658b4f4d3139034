"""Tables of the steering evaluation: transfer ratios, conditions, nulls, damage, other scorers, layers."""

from __future__ import annotations

from lrt.report.contents import Results, damage_of, strongest_null
from lrt.report.dose_tables import dose_of, dose_text
from lrt.report.numerals import share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.side_effects import effects_cell
from lrt.report.table import Cell, Table


def headline_table(results: Results) -> Table:
    """One row per behaviour: test scores and transfer ratio at the strength chosen on development items."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        null = strongest_null(b)
        matched = b.get("matched_damage") or {}
        rows.append(
            (
                behaviour_name(b["name"]),
                b.get("layer"),
                b.get("strength"),
                b.get("unsteered"),
                b.get("native"),
                b.get("transferred"),
                b.get("ratio"),
                share_interval(b.get("ratio_ci")),
                share_interval(b.get("ratio_ci_map")),
                share_interval((min(refits), max(refits)) if (refits := b.get("ratio_refits")) else None),
                dose_text(b, "transferred"),
                share_interval(dose_of(b, "transferred").get("ci")),
                (b.get("nulls") or {}).get("untrained_source"),
                dose_text(b, "untrained_source"),
                share_interval(dose_of(b, "untrained_source").get("ci")),
                dose_of(b, "transferred").get("share"),
                dose_of(b, "untrained_source").get("share"),
                b.get("verdict") or "",
                b.get("prompt"),
                b.get("prompt_ratio"),
                b.get("map") or "",
                b.get("whole_corpus_ratio"),
                null[1] if null else None,
                condition_name(null[0]) if null else None,
                damage_of(b, "native"),
                damage_of(b, "transferred"),
                effects_cell(b, "transferred"),
                matched.get("ratio"),
                share_interval(matched.get("ratio_ci")),
                b.get("note") or "",
            )
        )
    return Table(
        "Transfer by behaviour",
        (
            "behaviour",
            "layer",
            "strength",
            "unsteered",
            "native",
            "transferred",
            "transfer ratio",
            "95% interval, items",
            "95% interval, items and map",
            "range over refits",
            "dose ratio",
            "95% interval, dose ratio",
            "untrained source / native",
            "dose ratio, untrained source",
            "95% interval, dose ratio, untrained source",
            "curve share",
            "curve share, untrained source",
            "verdict",
            "plain prompt",
            "plain prompt / native",
            "map",
            "ratio, whole-corpus map",
            "strongest null",
            "which null",
            "damage, native",
            "damage, transferred",
            "side effects, transferred",
            "ratio at equal damage",
            "its 95% interval",
            "note",
        ),
        tuple(rows),
        (
            "behaviour",
            "transfer ratio",
            "95% interval, items",
            "dose ratio",
            "untrained source / native",
            "dose ratio, untrained source",
            "verdict",
            "plain prompt",
            "strongest null",
            "which null",
            "native",
            "transferred",
            "unsteered",
            "damage, transferred",
            "layer",
            "strength",
        ),
    )


def conditions_table(results: Results) -> Table:
    """Mean test scores under every condition that is not a null."""
    columns = ("unsteered", "native", "transferred", "paper_literal", "prompt")
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            b.get("metric") or "",
            b.get("items"),
            *(b.get(c) for c in columns),
            b.get("source_unsteered"),
            b.get("source"),
        )
        for b in results.get("behaviours") or []
    ]
    names = tuple(condition_name(c) for c in columns)
    return Table(
        "Scores by condition",
        ("behaviour", "score", "items", *names, "source, unsteered", condition_name("source")),
        tuple(rows),
        ("behaviour", *names),
    )


def damage_table(results: Results) -> Table:
    """Damage of every condition at every strength it was run at, on the behaviour's damage texts."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        curves = b.get("damage_curves") or {}
        # nulls were run at the chosen strength alone
        single = {
            name: [{**damage, "strength": b.get("strength")}]
            for name, damage in (b.get("damage") or {}).items()
            if name not in curves
        }
        rows += [
            (
                behaviour_name(b["name"]),
                condition_name(name),
                p["strength"],
                p["relative"],
                p["rise"],
                p["kl"],
            )
            for name, points in {**curves, **single}.items()
            for p in points
            if p["strength"]
        ]
    return Table(
        "Damage by condition and strength",
        (
            "behaviour",
            "condition",
            "strength",
            "relative rise of cross-entropy",
            "rise, nats per token",
            "KL, nats per token",
        ),
        tuple(rows),
    )


def null_table(results: Results) -> Table:
    """Changes by vectors that must not steer, as shares of the native change."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        details = b.get("null_details") or {}
        for name, mean in (b.get("nulls") or {}).items():
            detail = details.get(name) or {}
            rows.append(
                (
                    behaviour_name(b["name"]),
                    condition_name(name),
                    mean,
                    detail.get("p95"),
                    detail.get("draws"),
                    damage_of(b, name),
                )
            )
    return Table(
        "Nulls, as shares of the native change",
        ("behaviour", "null", "mean", "95th percentile", "draws", "damage"),
        tuple(rows),
        ("behaviour", "null", "mean", "95th percentile", "damage"),
    )


def rescored_table(results: Results) -> Table:
    """Scores of the same generated texts by other scorers, at the strength chosen by the behaviour's own."""
    conditions = ("none", "native", "transferred", "paper_literal", "random", "prompt")
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            r["scorer"],
            r["items"],
            r["unscored"],
            *((r.get("means") or {}).get(c) for c in conditions),
            r.get("ratio"),
            share_interval(r.get("ratio_ci")),
        )
        for b in results.get("behaviours") or []
        for r in b.get("rescored") or []
    ]
    return Table(
        "The same texts by other scorers",
        (
            "behaviour",
            "scorer",
            "items",
            "items without a score",
            *map(condition_name, conditions),
            "transfer ratio",
            "95% interval",
        ),
        tuple(rows),
        ("behaviour", "scorer", "transfer ratio", "95% interval", "native", "transferred"),
    )


def layer_table(results: Results) -> Table:
    """Change by the native vector at every layer tried, on development items, at its best strength there.

    The layer with the largest change is the one that is steered.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            t["layer"],
            t["native_change"],
            {True: "yes", False: "no"}.get(t.get("steers")),
            "chosen" if t["layer"] == b["layer"] else "",
        )
        for b in results.get("behaviours") or []
        if len(tried := b.get("layers_tried") or []) > 1
        for t in tried
    ]
    return Table(
        "Choice of the layer, on development items",
        ("behaviour", "layer", "native change", "steers", "choice"),
        tuple(rows),
    )
