"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt.report import analysis, answers, contents
from lrt.report.figures import loss_figure, strength_figure, training_curve_figure
from lrt.report.numerals import blocks_told, count, figure
from lrt.report.palette import CURVES, behaviour_name
from lrt.report.plain import plain, to_json
from lrt.report.svg import inline_svg
from lrt.report.table import Table
from lrt.report.templating import render
from lrt.report.writing import write_files

RATIO_AXIS = (-0.2, 1.4)  # the drawn range of the ratio's dot and whisker


def write_report(results: Mapping[str, Any], folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `index.html`, `results.json` and `report.md` into `folder`; returns the page's path.

    results  The record of one run: `pair`, `layers`, `map`, `behaviours`, `models`, `training`,
             `split` (of the items: `test` or `development`), `configurations_tried`, `seconds`,
             `provenance`. Any part may be missing or None.
    setting  Named in the ReportUnwritable that is raised where `folder` cannot be written to.

    The page is one file without scripts or requests. Raises TypeError for results that are not
    plain data.
    """
    record: dict[str, Any] = plain(results)
    write_files(
        folder,
        {
            "results.json": to_json(record),
            "report.md": markdown(record).encode(),
            "index.html": page(record).encode(),
        },
        setting,
    )
    return folder / "index.html"


def markdown(results: Mapping[str, Any]) -> str:
    """The page's tables as Markdown."""
    tables = [
        contents.headline_table(results),
        contents.conditions_table(results),
        contents.null_table(results),
        contents.damage_table(results),
        answers.propensity_table(results),
        answers.paper_table(results),
        answers.probability_table(results),
        contents.rescored_table(results),
        contents.maps_table(results),
        contents.map_table(results),
        contents.along_table(results),
        contents.layer_table(results),
        *analysis.analysis_tables(results),
        contents.model_table(results),
        contents.check_table(results),
        contents.seconds_table(results),
        Table(
            "Provenance",
            ("what", "value"),
            tuple(_facts(results)),
        ),
    ]
    figures = [f"- {value} {what}" for value, what in contents.key_figures(results)]
    parts = [
        "# Transfer report",
        contents.headline(results),
        "\n".join(figures),
        *(table.markdown() for table in tables if table.rows),
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def page(results: Mapping[str, Any]) -> str:
    """The HTML of one run, from plain results."""
    behaviours = results.get("behaviours") or []
    training = results.get("training") or {}
    models = results.get("models") or []
    provenance = results.get("provenance") or {}
    seconds = results.get("seconds") or {}
    return render(
        "report.html",
        pairing=" → ".join(_model_at(results, side) for side in ("source", "target")),
        source=contents.name_of(results, "source"),
        target=contents.name_of(results, "target"),
        headline=contents.headline(results),
        tiles=contents.key_figures(results),
        behaviours=[_behaviour(b, i) for i, b in enumerate(behaviours)],
        zero=_place(0.0),
        reference=_place(1.0),
        legend=[
            {"name": name, "label": label}
            for name, (label, _) in CURVES.items()
            if any((b.get("curves") or {}).get(name) for b in behaviours)
        ],
        tables={
            "conditions": contents.conditions_table(results),
            "nulls": contents.null_table(results),
            "damage": contents.damage_table(results),
            "propensity": answers.propensity_table(results),
            "paper": answers.paper_table(results),
            "probabilities": answers.probability_table(results),
            "rescored": contents.rescored_table(results),
            "map": contents.map_table(results),
            "maps": contents.maps_table(results),
            "along": contents.along_table(results),
            "layers": contents.layer_table(results),
            "notes": analysis.notes_table(results),
            "forecast": analysis.forecast_table(results),
            "fidelity": analysis.fidelity_table(results),
            "cuts": analysis.cut_table(results),
            "many": analysis.many_to_one_table(results),
            "atlas": analysis.atlas_table(results),
            "pairs": analysis.pairs_table(results),
            "sae": analysis.sae_table(results),
            "geometry": analysis.geometry_table(results),
            "features": analysis.feature_table(results),
        },
        loss=inline_svg(loss_figure(training, bare=True), "loss")
        if training.get("train") or training.get("val")
        else None,
        ranks=inline_svg(analysis.rank_figure(results, bare=True), "ranks")
        if results.get("rank_curve")
        else None,
        atlas=[
            {"title": title, "svg": inline_svg(analysis.atlas_figure(results, m, bare=True), f"atlas-{m}")}
            for m, title in analysis.atlas_metrics(results).items()
        ]
        if results.get("atlas")
        else [],
        probes=[
            {
                "name": p["behaviour"],
                "map": name,
                "svg": inline_svg(training_curve_figure(p, bare=True), f"probe{i}"),
            }
            for i, (name, p) in enumerate(_probes(results))
        ],
        models=models,
        checks=_checks(models),
        split=results.get("split") or "test",
        tried=results.get("configurations_tried") or {},
        seconds=seconds,
        slowest=max((s for s in seconds.values() if s is not None), default=0) or 1,
        facts=_facts(results),
        config=provenance.get("config"),
    )


def _probes(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Behaviours followed while the map that carries them was trained, with that map's name."""
    return [
        (m["name"], probe)
        for m in results.get("maps") or []
        for probe in (m.get("training") or {}).get("steering_evaluations") or []
        if probe.get("points") and probe["behaviour"] in m["fitted_for"]
    ]


def _model_at(results: Mapping[str, Any], side: str) -> str:
    """A model with its size and the blocks that are read or steered."""
    model = (results.get("pair") or {}).get(side) or {}
    layers = (results.get("layers") or {}).get(side)
    text = contents.name_of(results, side)
    if model.get("parameters"):
        text += f" ({count(model['parameters'])})"
    if layers:
        text += f", {blocks_told(layers)}"
        if model.get("depth"):
            text += f" of {model['depth']}"
    return text


def _behaviour(summary: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A summary with what the page draws of it."""
    null = contents.strongest_null(summary)
    curves = summary.get("curves") or {}
    return {
        "name": summary["name"],
        "metric": summary.get("metric") or "",
        "items": summary.get("items"),
        "strength": summary.get("strength"),
        "layer": summary.get("layer"),
        "unsteered": summary.get("unsteered"),
        "native": summary.get("native"),
        "transferred": summary.get("transferred"),
        "ratio": summary.get("ratio"),
        "ratio_ci": summary.get("ratio_ci"),
        "ratio_ci_map": summary.get("ratio_ci_map"),
        "map": summary.get("map"),
        "whole_corpus_ratio": summary.get("whole_corpus_ratio"),
        "drawn": _drawn(summary),
        "null": null[1] if null else None,
        "null_name": null[0] if null else None,
        "damage_native": contents.damage_of(summary, "native"),
        "damage_transferred": contents.damage_of(summary, "transferred"),
        "note": summary.get("note") or "",
        "svg": inline_svg(strength_figure(summary, bare=True), f"strength{number}") if curves else None,
        "examples": [_example(e) for e in summary.get("examples") or []],
    }


def _place(ratio: float) -> float:
    """A ratio as percent of the drawn range, clipped to it."""
    low, high = RATIO_AXIS
    return round(100 * (min(max(ratio, low), high) - low) / (high - low), 2)


def _drawn(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Places of dot, whisker and nulls on the ratio's axis."""
    if summary.get("ratio") is None:
        return None

    def span(bounds: Sequence[float] | None) -> dict[str, float] | None:
        if not bounds:
            return None
        left, right = (_place(b) for b in bounds)
        return {"left": left, "width": round(right - left, 2)}

    nulls = (summary.get("nulls") or {}).values()
    return {
        "dot": _place(summary["ratio"]),
        "items": span(summary.get("ratio_ci")),
        "map": span(summary.get("ratio_ci_map")),
        "nulls": [_place(value) for value in nulls if value is not None],
    }


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    """One prompt's texts: those alone in their condition, and the others side by side."""
    texts = example.get("texts") or []
    sides = ("native", "transferred")
    strengths = sorted({t["strength"] for t in texts if t["condition"] in sides})
    found = {(t["condition"], t["strength"]): t["text"] for t in texts}
    return {
        "prompt": example.get("prompt") or "",
        "before": [t for t in texts if t["condition"] == "none"],
        "rows": [{"strength": s, "texts": {side: found.get((side, s)) for side in sides}} for s in strengths],
        "after": [t for t in texts if t["condition"] not in ("none", *sides)],
    }


def _checks(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The checks of all models, one record a check with its limit and each model's result."""
    names = dict.fromkeys(c["name"] for m in models for c in m.get("checks") or [])
    found = []
    for name in names:
        results = [next((c for c in m.get("checks") or [] if c["name"] == name), None) for m in models]
        first = next(c for c in results if c)
        limit = first.get("limit")
        found.append(
            {
                "name": behaviour_name(name),
                "limit": ""
                if limit is None
                else f"{contents.relation_sign(first.get('relation'))} {limit:g}",
                "results": results,
            }
        )
    return found


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the figures come from, and what was looked at to choose them."""
    facts = contents.provenance_facts(results.get("provenance") or {})
    tried = results.get("configurations_tried") or {}
    if tried:
        told = ", ".join(f"{figure(n)} {what}" for what, n in tried.items())
        facts.append(("looked at by this run, on development items", told))
    return facts
