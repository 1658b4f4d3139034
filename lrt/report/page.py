"""The report of one run: page, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt.report import (
    answers,
    contents,
    dose_tables,
    feature_tables,
    fidelity_tables,
    layer_tables,
    map_tables,
    null_tables,
    price_tables,
    run_tables,
    side_effects,
    transfer_tables,
)
from lrt.report.figures import loss_figure, strength_figure, training_curve_figure
from lrt.report.next_steps import NextSteps, next_steps
from lrt.report.numerals import count, figure, format_layers
from lrt.report.palette import CURVES, behaviour_name
from lrt.report.plain import plain, to_json
from lrt.report.svg import inline_svg
from lrt.report.table import Table, escape_markdown
from lrt.report.templating import render
from lrt.report.writing import write_files

RATIO_AXIS = (-0.2, 1.4)  # range of the axis on which a transfer ratio is drawn


def write_report(results: Mapping[str, Any], folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `index.html`, `results.json` and `report.md` into `folder`; returns the page's path.

    results  The record of one run: `pair`, `layers`, `map`, `behaviours`, `models`, `training`,
             `split` (of the items: `test` or `development`), `configurations_tried`, `seconds`,
             `provenance`. Any part may be missing or None.
    setting  Named in the ReportUnwritable that is raised if `folder` cannot be written to.

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
    """Headline and tables as Markdown. All text of the results is escaped."""
    tables = (*_tables(results).values(), Table("Provenance", ("what", "value"), tuple(_facts(results))))
    figures = [f"- {value} {what}" for value, what in _key_figures(results)]
    blocks = [table.markdown() for table in tables if table.rows]
    parts = [
        "# Transfer report",
        escape_markdown(contents.headline(results)),
        escape_markdown(dose_tables.verdicts(results)),
        escape_markdown(price_tables.price_headline(results)),
        "\n".join(figures),
        *blocks[:1],
        *(part for section in next_steps(results) for part in _section_markdown(section)),
        *blocks[1:],
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _section_markdown(section: NextSteps) -> list[str]:
    facts = "\n".join(f"- {escape_markdown(fact)}" for fact in section.facts)
    return [
        f"## {escape_markdown(section.title)}",
        facts,
        section.tried.markdown(),
        section.suggestions.markdown(),
    ]


def _tables(results: Mapping[str, Any]) -> dict[str, Table]:
    """All tables by the names that the page's template uses, in the order of the Markdown."""
    return {
        "headline": transfer_tables.headline_table(results),
        "dose": dose_tables.dose_table(results),
        "evidence": null_tables.evidence_table(results),
        "conditions": transfer_tables.conditions_table(results),
        "nulls": transfer_tables.null_table(results),
        "null_causes": null_tables.null_cause_table(results),
        "damage": transfer_tables.damage_table(results),
        "side_effects": side_effects.side_effect_table(results),
        "side_effect_sets": side_effects.side_effect_sets_table(results),
        "quality": side_effects.quality_table(results),
        "propensity": answers.propensity_table(results),
        "paper": answers.paper_table(results),
        "probabilities": answers.probability_table(results),
        "rescored": transfer_tables.rescored_table(results),
        "maps": map_tables.maps_table(results),
        "map": map_tables.map_table(results),
        "along": map_tables.along_table(results),
        "layers": transfer_tables.layer_table(results),
        "notes": run_tables.notes_table(results),
        "forecast": map_tables.forecast_table(results),
        "given_away": map_tables.given_away_table(results),
        "fidelity": fidelity_tables.fidelity_table(results),
        "stitched": fidelity_tables.stitching_table(results),
        "ranks": layer_tables.rank_table(results),
        "many": layer_tables.many_to_one_table(results),
        "atlas": layer_tables.atlas_table(results),
        "pairs": layer_tables.pairs_table(results),
        "sae": feature_tables.sae_table(results),
        "geometry": feature_tables.geometry_table(results),
        "features": feature_tables.feature_table(results),
        "break_even": price_tables.break_even_table(results),
        "few_shot": price_tables.price_table(results),
        "models": run_tables.model_table(results),
        "checks": run_tables.check_table(results),
        "seconds": run_tables.seconds_table(results),
    }


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
        verdicts=dose_tables.verdicts(results),
        tiles=_key_figures(results),
        behaviours=[_behaviour(b, i) for i, b in enumerate(behaviours)],
        zero=_mark(0.0)["left"],
        reference=_mark(1.0)["left"],
        legend=[
            {"name": name, "label": label}
            for name, (label, _) in CURVES.items()
            if any((b.get("curves") or {}).get(name) for b in behaviours)
        ],
        next_steps=next_steps(results),
        tables=_tables(results),
        loss=inline_svg(loss_figure(training, bare=True), "loss")
        if training.get("train") or training.get("val")
        else None,
        ranks=inline_svg(layer_tables.rank_figure(results), "ranks") if results.get("rank_curve") else None,
        atlas=[
            {
                "title": title,
                "svg": inline_svg(layer_tables.atlas_figure(results, metric, bare=True), f"atlas-{metric}"),
            }
            for metric, title in layer_tables.atlas_metrics(results).items()
        ],
        price_headline=price_tables.price_headline(results),
        prices=[
            {
                "name": each["name"],
                "svg": inline_svg(price_tables.price_figure(each), f"price{i}"),
            }
            for i, each in enumerate(price_tables.priced(results))
            if each.get("chosen")
        ],
        steering_evaluations=[
            {
                "name": evaluation["behaviour"],
                "map": map_name,
                "svg": inline_svg(training_curve_figure(evaluation, bare=True), f"training{i}"),
            }
            for i, (map_name, evaluation) in enumerate(_steering_evaluations(results))
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


def _key_figures(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few figures under the headline, the number of behaviours that count as transferred first."""
    verdict = dose_tables.verdict_figure(results)
    return [*([verdict] if verdict else []), *contents.key_figures(results)]


def _steering_evaluations(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Behaviours evaluated during the training of their own map, with that map's name."""
    return [
        (m["name"], evaluation)
        for m in results.get("maps") or []
        for evaluation in (m.get("training") or {}).get("steering_evaluations") or []
        if evaluation.get("points") and evaluation["behaviour"] in m["fitted_for"]
    ]


def _model_at(results: Mapping[str, Any], side: str) -> str:
    """A model with its size and the layers that are read or steered."""
    model = (results.get("pair") or {}).get(side) or {}
    layers = (results.get("layers") or {}).get(side)
    text = contents.name_of(results, side)
    if model.get("parameters"):
        text += f" ({count(model['parameters'])})"
    if layers:
        text += f", {format_layers(layers)}"
        if model.get("depth"):
            text += f" of {model['depth']}"
    return text


def _behaviour(summary: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What the page shows of one behaviour."""
    null = contents.strongest_null(summary)
    shown = (
        "name",
        "strength",
        "layer",
        "unsteered",
        "native",
        "transferred",
        "ratio",
        "ratio_ci",
        "ratio_ci_map",
        "prompt",
        "prompt_ratio",
        "verdict",
        "map",
        "whole_corpus_ratio",
    )
    return {
        **{key: summary.get(key) for key in shown},
        "metric": summary.get("metric") or "",
        **{
            f"dose_{name}": {
                "text": dose_tables.dose_text(summary, name),
                "ci": dose_tables.dose_of(summary, name).get("ci"),
                "share": dose_tables.dose_of(summary, name).get("share"),
            }
            for name in ("transferred", "untrained_source")
        },
        "drawn": _drawn(summary),
        "untrained": (summary.get("nulls") or {}).get("untrained_source"),
        "null": null[1] if null else None,
        "null_name": null[0] if null else None,
        "damage_native": contents.damage_of(summary, "native"),
        "damage_transferred": contents.damage_of(summary, "transferred"),
        "effects_native": side_effects.effects_cell(summary, "native"),
        "effects_transferred": side_effects.effects_cell(summary, "transferred"),
        "note": summary.get("note") or "",
        "next_steps": bool(summary.get("next_steps")),
        "svg": inline_svg(strength_figure(summary, bare=True), f"strength{number}")
        if summary.get("curves")
        else None,
        "examples": [_example(e) for e in summary.get("examples") or []],
    }


def _mark(ratio: float) -> dict[str, Any]:
    """Place of a ratio in percent of `RATIO_AXIS`, capped at its ends; `beyond` names the end it is past."""
    low, high = RATIO_AXIS
    capped = min(max(ratio, low), high)
    beyond = "" if capped == ratio else "right" if ratio > high else "left"
    return {"left": round(100 * (capped - low) / (high - low), 2), "beyond": beyond}


def _drawn(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Places of dot, bars and nulls on the ratio's axis."""
    if summary.get("ratio") is None:
        return None

    def bar(bounds: Sequence[float] | None) -> dict[str, Any] | None:
        if not bounds:
            return None
        low, high = (_mark(b) for b in bounds)
        return {
            "left": low["left"],
            "width": round(high["left"] - low["left"], 2),
            "beyond": [end["beyond"] for end in (low, high) if end["beyond"]],
        }

    nulls = (summary.get("nulls") or {}).values()
    return {
        "dot": _mark(summary["ratio"]),
        "items": bar(summary.get("ratio_ci")),
        "map": bar(summary.get("ratio_ci_map")),
        "nulls": [_mark(value) for value in nulls if value is not None],
    }


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of one prompt: native and transferred side by side, the other conditions around them."""
    texts = example.get("texts") or []
    sides = ("native", "transferred")
    strengths = sorted({t["strength"] for t in texts if t["condition"] in sides})
    by_condition = {(t["condition"], t["strength"]): t["text"] for t in texts}
    return {
        "prompt": example.get("prompt") or "",
        "before": [t for t in texts if t["condition"] == "none"],
        "rows": [
            {"strength": s, "texts": {side: by_condition.get((side, s)) for side in sides}} for s in strengths
        ],
        "after": [t for t in texts if t["condition"] not in ("none", *sides)],
    }


def _checks(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The checks of all models: each with its limit and every model's result."""
    names = dict.fromkeys(c["name"] for m in models for c in m.get("checks") or [])
    checks = []
    for name in names:
        results = [next((c for c in m.get("checks") or [] if c["name"] == name), None) for m in models]
        first = next(c for c in results if c)
        limit = first.get("limit")
        sign = run_tables.relation_sign(first.get("relation"))
        checks.append(
            {
                "name": behaviour_name(name),
                "limit": "" if limit is None else f"{sign} {limit:g}",
                "results": results,
            }
        )
    return checks


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance of the run, and the number of configurations it tried."""
    facts = contents.provenance_facts(results.get("provenance") or {})
    tried = results.get("configurations_tried") or {}
    if tried:
        counts = ", ".join(f"{figure(n)} {what}" for what, n in tried.items())
        facts.append(("tried on development items", counts))
    return facts
