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
from lrt.report.atlas_heatmap import atlas_heatmap
from lrt.report.behaviour_section import behaviour_section, ratio_mark
from lrt.report.figures import loss_figure, training_curve_figure
from lrt.report.next_steps import NextSteps, next_steps
from lrt.report.numerals import figure
from lrt.report.palette import CURVES, behaviour_name
from lrt.report.plain import plain, to_json
from lrt.report.svg import inline_svg
from lrt.report.table import Table, escape_markdown
from lrt.report.templating import render
from lrt.report.writing import write_files


def write_report(results: Mapping[str, Any], folder: Path, *, setting: str = "paths.report") -> Path:
    """Write `index.html`, `results.json` and `report.md` into `folder`; returns the page's path.

    results  The record of one run: `pair`, `layers`, `map`, `behaviours`, `models`, `training`,
             `split` (of the items: `test` or `development`), `configurations_tried`, `seconds`,
             `provenance`. Any part may be missing or None.
    setting  Named in the ReportUnwritable that is raised if `folder` cannot be written to.

    The page is one file without requests. Raises TypeError for results that are not
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
        pairing=" → ".join(contents.model_at(results, side) for side in ("source", "target")),
        source=contents.name_of(results, "source"),
        target=contents.name_of(results, "target"),
        headline_text=contents.headline(results),
        verdicts=dose_tables.verdicts(results),
        tiles=_key_figures(results),
        behaviours=[behaviour_section(b, i) for i, b in enumerate(behaviours)],
        zero=ratio_mark(0.0)["left"],
        reference=ratio_mark(1.0)["left"],
        legend=[
            {"name": name, "label": label}
            for name, (label, _) in CURVES.items()
            if any((b.get("curves") or {}).get(name) for b in behaviours)
        ],
        next_steps={section.name: section for section in next_steps(results)},
        tables=_tables(results),
        loss=inline_svg(loss_figure(training, bare=True), "loss")
        if training.get("train") or training.get("val")
        else None,
        ranks=inline_svg(layer_tables.rank_figure(results), "ranks") if results.get("rank_curve") else None,
        heatmap=atlas_heatmap(results),
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
