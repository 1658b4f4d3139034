"""Tables of the fitted maps: error, error along each vector, and the forecast of each transfer."""

from __future__ import annotations

from statistics import fmean

from lrt.report.contents import Results
from lrt.report.palette import behaviour_name
from lrt.report.table import Cell, Table


def map_table(results: Results) -> Table:
    """The map of the whole corpus: its fit, its error on test documents, and the excluded tokens."""
    m = results.get("map") or {}
    layers = results.get("layers") or {}
    source, target = (", ".join(map(str, layers.get(side) or [])) for side in ("source", "target"))
    rows: list[tuple[Cell, ...]] = [
        ("kind", str(m["kind"]).replace("_", " ") if m.get("kind") else None),
        ("source layers", source or None),
        ("target layers", target or None),
        ("tokens per pooled row", results.get("pool")),
        ("FVU", m.get("fvu")),
        ("R²", m.get("r2")),
        ("mean cosine", m.get("cosine")),
        ("FVU of the reference ridge", m.get("optimum_fvu")),
        ("excess over the reference ridge", m.get("excess_over_optimum")),
        ("ridge weight", m.get("ridge_weight")),
        ("ridge weight by generalised cross-validation", m.get("gcv_weight")),
        ("FVU with that weight", m.get("gcv_fvu")),
        ("how it was fitted", m.get("note") or None),
        ("FVU on single tokens", m.get("fvu_tokens")),
        ("FVU on single tokens, none excluded", m.get("fvu_unfiltered")),
        ("training rows", m.get("rows")),
        ("tokens excluded", m.get("rows_excluded")),
    ]
    rows += [
        (
            f"training tokens of the {side} that end where the other model's do",
            f"{n['paired']} of {n['tokens']}",
        )
        for side, n in (m.get("aligned") or {}).items()
    ]
    reasons = m.get("rows_excluded_by") or {}
    rows += [(f"excluded: {str(reason).replace('_', ' ')}", count) for reason, count in reasons.items()]
    documents = m.get("documents_excluded") or {}
    rows += [
        (f"documents excluded: text shared with {behaviour_name(name)}", count)
        for name, count in documents.items()
    ]
    return Table(
        "The map of the whole corpus", ("quantity", "value"), tuple(r for r in rows if r[1] is not None)
    )


def maps_table(results: Results) -> Table:
    """Every map of the run: the corpus part it was fitted on, the behaviours it serves, and its error."""
    rows: list[tuple[Cell, ...]] = [
        (
            m["name"],
            ", ".join(behaviour_name(name) for name in m.get("fitted_for") or []) or "none",
            m.get("rows"),
            m.get("fvu"),
            m.get("optimum_fvu"),
            m.get("excess_over_optimum"),
            m.get("fvu_tokens"),
        )
        for m in results.get("maps") or []
    ]
    return Table(
        "Maps",
        (
            "fitted on",
            "for the behaviours",
            "training rows",
            "FVU",
            "FVU of the reference ridge",
            "excess",
            "FVU on single tokens",
        ),
        tuple(rows),
        ("fitted on", "FVU", "excess", "training rows", "for the behaviours"),
    )


def along_table(results: Results) -> Table:
    """FVU of each map along each target vector, and the cosine of the transferred and the native vector.

    A large error along a vector means that the map's text covers that direction badly.
    """
    rows: list[tuple[Cell, ...]] = []
    for m in results.get("maps") or []:
        cosines = m.get("cosine_with_native") or {}
        for key, value in (m.get("error_along") or {}).items():
            name, _, layer = key.partition("@")
            label = f"{behaviour_name(name)}, layer {layer}" if layer else behaviour_name(name)
            rows.append((label, m["name"], value, cosines.get(key)))
    order = {label: i for i, label in enumerate(dict.fromkeys(str(row[0]) for row in rows))}
    return Table(
        "Error along each vector",
        ("vector", "map", "FVU along it", "cosine, transferred with native"),
        tuple(sorted(rows, key=lambda row: order[str(row[0])])),
        ("vector", "FVU along it", "map"),
    )


def given_away_table(results: Results) -> Table:
    """How much of each transferred vector untrained sources explain, by the map's whole corpus and without
    the behaviour's kind of text."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        given = b.get("given_away") or {}
        for corpus, figures, fvu in (
            ("whole", given.get("whole"), given),
            (f"without {given.get('part')}", given.get("without_part"), {}),
        ):
            if figures:
                rows.append(
                    (
                        behaviour_name(b["name"]),
                        corpus,
                        figures["share"],
                        fmean(figures["cosine_untrained"]),
                        figures["native"],
                        fmean(figures["untrained_native"]),
                        figures["native_beyond"],
                        figures.get("cosine_with_whole"),
                        fvu.get("fvu"),
                        fmean(fvu["fvu_untrained"]) if fvu else None,
                    )
                )
        if given.get("note"):
            rows.append((behaviour_name(b["name"]), given["note"], *[None] * 8))
    return Table(
        "What the corpus gives away",
        (
            "behaviour",
            "corpus of the map",
            "share explained by untrained sources",
            "cosine, transferred with untrained",
            "cosine, transferred with native",
            "cosine, untrained with native",
            "cosine, transferred with native, beyond untrained",
            "cosine, with that of the whole corpus",
            "FVU on validation rows",
            "FVU, untrained sources",
        ),
        tuple(rows),
        (
            "behaviour",
            "corpus of the map",
            "share explained by untrained sources",
            "cosine, transferred with native",
            "cosine, untrained with native",
        ),
    )


def forecast_table(results: Results) -> Table:
    """Forecast of each transfer before any steering, with the behaviour's map and the whole-corpus map."""
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            map_name,
            f.get("signal_to_noise"),
            f.get("agreement_documents"),
            f.get("agreement_parts"),
            f.get("agreement_whole_corpus"),
            f.get("residual_on_prompts"),
            ratio,
            f.get("warning") or "",
        )
        for b in results.get("behaviours") or []
        for f, map_name, ratio in (
            (b.get("forecast"), b.get("map") or "", b.get("ratio")),
            (b.get("whole_corpus_forecast"), "whole corpus", b.get("whole_corpus_ratio")),
        )
        if f
    ]
    return Table(
        "Forecast",
        (
            "behaviour",
            "map",
            "signal to noise, jackknife",
            "agreement, halves of documents",
            "least agreement, one part excluded",
            "agreement with the whole-corpus map",
            "residual on its prompts",
            "transfer ratio",
            "warning",
        ),
        tuple(rows),
        ("behaviour", "signal to noise, jackknife", "transfer ratio", "agreement, halves of documents"),
    )
