"""What a report says of the maps beside their use: layer pairs, ranks, fidelity and the forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lrt.report.figures import figure_style
from lrt.report.heatmap import Grid, grid_figure
from lrt.report.numerals import count, share_interval
from lrt.report.palette import DARK, LIGHT, behaviour_name
from lrt.report.table import Cell, Table

Results = Mapping[str, Any]

# metric: what it is, and how a cell of the atlas gives it
ATLAS = {
    "fvu": "FVU of the ridge map, test documents",
    "cka": "linear CKA, training documents",
    "rank": "rank that explains 95% of what the map does",
    "along": "error along the vectors, median",
    "tokens": "FVU on single test tokens, massive ones left out",
    "unfiltered": "FVU on all single test tokens, massive ones among them",
}
# columns for the last two
ON_TOKENS = {"tokens": "FVU, single tokens", "unfiltered": "FVU, massive tokens among them"}


def atlas_figure(results: Results, metric: str, dark: bool = False, *, bare: bool = False) -> Figure:
    """One figure of every pair of layers: a metric of `ATLAS` as a heatmap. Stronger is better."""
    cells = results.get("atlas") or []
    values = {}
    for cell in cells:
        place = str(cell["source_layer"]), str(cell["target_layer"])
        value = _at(cell, metric)
        if value is not None:
            values[place] = float(value)
    sides = [
        tuple(dict.fromkeys(str(cell[f"{side}_layer"]) for cell in cells)) for side in ("source", "target")
    ]
    grid = Grid(sides[0], sides[1], "source block", "target block", values, frozenset())
    # a grid's colour knows these two: less is better for all of an atlas but CKA
    return grid_figure(grid, "r2" if metric == "cka" else "fvu", dark, bare=bare)


def atlas_metrics(results: Results) -> dict[str, str]:
    """Those of `ATLAS` that the cells tell of: an atlas without a store scores no single tokens."""
    cells = results.get("atlas") or []
    return {m: title for m, title in ATLAS.items() if any(_at(cell, m) is not None for cell in cells)}


def _at(cell: Mapping[str, Any], metric: str) -> float | None:
    if metric == "along":
        return median_along(cell)
    value: float | None = cell.get(metric, (cell.get("fvu_of") or {}).get(metric))
    return value


def median_along(cell: Mapping[str, Any]) -> float | None:
    """Median over the vectors of an atlas's cell of the error along them; None without vectors."""
    errors = list((cell.get("error_along") or {}).values())
    return median(errors) if errors else None


def atlas_table(results: Results) -> Table:
    """For each steering vector the pair of layers with the least error along it."""
    cells = results.get("atlas") or []
    names = sorted({name for cell in cells for name in cell.get("error_along") or {}})
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        best = min(cells, key=lambda cell: cell["error_along"].get(name, float("inf")))
        rows.append(
            (
                behaviour_name(name),
                best["source_layer"],
                best["target_layer"],
                best["error_along"][name],
                best["cosine"][name],
            )
        )
    return Table(
        "The pair of layers with the least error along each vector",
        ("vector", "source block", "target block", "error along it", "cosine, carried with native"),
        tuple(rows),
    )


def pairs_table(results: Results, most: int | None = None) -> Table:
    """The pairs of layers, or at most `most`: least median error along the vectors first, least FVU without
    vectors. FVU on single tokens, with massive ones left out and among them, where the cells tell it."""
    cells = results.get("atlas") or []
    told = {name: title for name, title in ON_TOKENS.items() if any(cell.get("fvu_of") for cell in cells)}
    rows: list[tuple[Cell, ...]] = [
        (
            cell["source_layer"],
            cell["target_layer"],
            median_along(cell),
            cell["fvu"],
            cell["cka"],
            cell["rank"],
            *(cell["fvu_of"][name] for name in told),
        )
        for cell in sorted(cells, key=least_error_first)[:most]
    ]
    return Table(
        "The pairs of layers with the least error along the vectors, in the median",
        ("source block", "target block", "error along", "FVU", "CKA", "rank at 95%", *told.values()),
        tuple(rows),
    )


def least_error_first(cell: Mapping[str, Any]) -> tuple[float, int, int]:
    """What the cells of an atlas are sorted by."""
    along = median_along(cell)
    return cell["fvu"] if along is None else along, cell["source_layer"], cell["target_layer"]


def rank_figure(results: Results, dark: bool = False, *, bare: bool = False) -> Figure:
    """FVU on test documents against the map's rank."""
    palette = DARK if dark else LIGHT
    curve = results.get("rank_curve") or {}
    with matplotlib.rc_context(figure_style(palette)):
        drawing = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = drawing.subplots()
        for key, label, colour, dashes in (
            ("fvu", "best map of the rank", palette.transferred, "-"),
            ("truncated_fvu", "ridge map, truncated", palette.random, (0, (6, 2, 1, 2))),
        ):
            axes.plot(
                curve.get("ranks") or [],
                curve.get(key) or [],
                color=colour,
                linestyle=dashes,
                marker="o",
                markersize=3.2,
                label=label,
            )
        if curve.get("rank_95"):
            axes.axvline(curve["rank_95"], color=palette.optimum, linestyle="--", linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve.get("ranks") or [1], [str(rank) for rank in curve.get("ranks") or [1]])
        axes.set_xlabel("rank")
        axes.set_ylabel("FVU")
        axes.legend()
        if not bare:
            axes.set_title("FVU against rank", loc="left")
    return drawing


def rank_table(results: Results) -> Table:
    """The rank curve in figures."""
    curve = results.get("rank_curve") or {}
    columns = (curve.get(key) or [] for key in ("ranks", "fvu", "truncated_fvu"))
    return Table(
        "FVU against rank",
        ("rank", "best map of the rank", "ridge map, truncated"),
        tuple(zip(*columns, strict=True)),
    )


def many_to_one_table(results: Results) -> Table:
    """What all source blocks give together, and each of them, to every target block; beside it the one map
    from all source blocks to all target blocks, where there is one."""
    found = results.get("many_to_one") or []
    sources = list(found[0]["fvu_single"]) if found else []
    at_once: Mapping[str, float] | None = (results.get("many_to_many") or {}).get("fvu_layer")
    rows: list[tuple[Cell, ...]] = [
        (
            f"block {each['target_layer']}",
            *(each["fvu_single"][s] for s in sources),
            each["fvu_all"],
            *([at_once.get(str(each["target_layer"]))] if at_once else []),
            each["gain"],
            *(each["rise"][s] for s in sources),
            *(each["share"][s] for s in sources),
        )
        for each in found
    ]
    columns = (
        "to",
        *(f"FVU, block {s} alone" for s in sources),
        "all",
        *(["all to all at once"] if at_once else []),
        "gain over the best",
        *(f"rise without {s}" for s in sources),
        *(f"share of {s}" for s in sources),
    )
    return Table("Many source blocks to one", columns, tuple(rows))


def fidelity_table(results: Results) -> Table:
    """What the target predicts from mapped states, beside itself, the source and its mean state. Maps that
    could not be fitted have a row that says why (`notes` by their names)."""
    found = results.get("fidelity") or {}
    fitted = found.get("rows") or []
    notes = found.get("notes") or {}
    told = bool(notes) or any(row.get("note") for row in fitted)
    rows: list[tuple[Cell, ...]] = [
        (
            row["name"],
            row.get("fvu"),
            _value(row.get("cross_entropy")),
            _value(row.get("kl")),
            _value(row.get("agreement")),
            _value(row.get("loss_recovered")),
            _interval(row.get("loss_recovered")),
            *([row.get("note") or ""] if told else []),
        )
        for row in fitted
    ]
    rows += [(name, None, None, None, None, None, None, str(why)) for name, why in notes.items()]
    return Table(
        f"The target run on from block {found.get('layer')}",
        (
            "state at the block",
            "FVU",
            "cross-entropy",
            "KL",
            "top-1 agreement",
            "loss recovered",
            "interval",
            *(["how it was fitted"] if told else []),
        ),
        tuple(rows),
    )


def cut_table(results: Results) -> Table:
    """The stitched model at every cut: what it costs and predicts beside both models."""
    found = results.get("fidelity") or {}
    alone = {row["name"]: _value(row.get("cross_entropy")) for row in found.get("rows") or []}
    cuts = found.get("stitching_depths") or []
    rows: list[tuple[Cell, ...]] = []
    for side in ("source", "target"):
        if cuts and side in alone:
            cost = cuts[0]["cost"][side]
            told = count(cost["parameters"]), count(cost["flops_per_token"])
            rows.append((f"the {side} alone", None, *told, alone[side], None))
    for cut in cuts:
        cost = cut["cost"]["stitched"]
        rows.append(
            (
                f"cut at block {cut['layer']}",
                cut["depth"],
                count(cost["parameters"]),
                count(cost["flops_per_token"]),
                _value(cut["cross_entropy"]),
                _interval(cut["cross_entropy"]),
            )
        )
    return Table(
        "Stitched: early blocks of the source, the map, late blocks of the target",
        ("model", "depth of the cut", "parameters", "FLOPs a token", "cross-entropy", "interval"),
        tuple(rows),
    )


def sae_table(results: Results) -> Table:
    """The two sparse autoencoders, on test tokens."""
    found = results.get("sae") or {}
    rows: list[tuple[Cell, ...]] = [
        (side, s["layer"], s["kind"], s["features"], s["fvu"], s["l0"], s["dead"])
        for side in ("source", "target")
        if (s := found.get(side))
    ]
    columns = ("model", "block", "kind", "features", "FVU", "active in a row", "share never on")
    return Table("Sparse autoencoders", columns, tuple(rows))


def geometry_table(results: Results) -> Table:
    """Decoder directions of one model predicted from the other's, on features not fitted (paper 2.2)."""
    found = (results.get("sae") or {}).get("geometry") or {}
    ways = {"forward": "source to target", "backward": "target to source"}
    named = {
        "matched": "features matched by co-activation",
        "random": "random decoders, matched alike",
        "shuffled": "matching shuffled",
    }
    rows: list[tuple[Cell, ...]] = []
    if found.get("note"):
        rows.append((named["matched"], found["note"], None, None, None, None, None))
    for name, what in named.items():
        score = found.get(name)
        if score is not None:
            rows += [
                (
                    what,
                    told,
                    score["scored"],
                    score[way]["r2"]["value"],
                    _interval(score[way]["r2"]),
                    score[way]["cosine"]["value"],
                    _interval(score[way]["cosine"]),
                )
                for way, told in ways.items()
            ]
        elif name == "random" and found.get("random_pairs") is not None:
            rows.append((what, f"too few pairs: {found['random_pairs']}", None, None, None, None, None))
    return Table(
        "Are the decoders linearly related?",
        ("decoders", "way", "features scored", "R²", "interval", "mean cosine", "interval"),
        tuple(rows),
    )


def feature_table(results: Results) -> Table:
    """Steering by source features: s2l beside l2l, as shares of the native change (paper 3.2)."""
    rows: list[tuple[Cell, ...]] = []
    for each in (results.get("sae") or {}).get("steering") or []:
        rows.append(
            (
                behaviour_name(each["behaviour"]),
                each["layer"],
                each["strength"],
                each["share_of_vector"],
                *(
                    cell
                    for name in ("s2l", "l2l_features", "l2l")
                    for cell in (each[name]["ratio"], share_interval(each[name]["ratio_ci"]))
                ),
                each["other_features"]["mean"],
                (each.get("s2l_fit") or {}).get("fitted"),
                (each.get("s2l_fit") or {}).get("fvu"),
                (each.get("s2l_fit") or {}).get("optimum"),
            )
        )
    return Table(
        "Steering by features, as shares of the native change",
        (
            "behaviour",
            "block",
            "strength",
            "cosine of features with the vector",
            "s2l",
            "interval",
            "l2l of the same features",
            "interval",
            "l2l of the vector",
            "interval",
            "other features, s2l",
            "s2l is",
            "its FVU, validation",
            "of the ridge optimum",
        ),
        tuple(rows),
    )


def forecast_table(results: Results) -> Table:
    """What the corpus says of each carried vector before any steering, by the map that carries it and by the
    one of the whole corpus beside it."""
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            carried_by,
            f.get("signal_to_noise"),
            f["signal"] / f["optimistic_error"]
            if f.get("optimistic_error") and f.get("signal") is not None
            else None,
            f.get("agreement_documents"),
            f.get("agreement_parts"),
            f.get("agreement_whole_corpus"),
            f.get("residual_on_prompts"),
            ratio,
            f.get("warning") or "",
        )
        for b in results.get("behaviours") or []
        for f, carried_by, ratio in (
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
            "rows taken as independent",
            "agreement of halves",
            "least agreement, a part left out",
            "agreement with the whole corpus",
            "residual on its prompts",
            "ratio as measured",
            "warning",
        ),
        tuple(rows),
    )


def notes_table(results: Results) -> Table:
    """Analyses that were asked for and could not be made, and why."""
    rows: list[tuple[Cell, ...]] = [
        (str(name).replace("_", " "), str(why)) for name, why in (results.get("notes") or {}).items()
    ]
    return Table("Analyses that could not be made", ("analysis", "why"), tuple(rows))


def _value(estimate: Mapping[str, Any] | None) -> float | None:
    return None if estimate is None else estimate["value"]


def _interval(estimate: Mapping[str, Any] | None) -> str | None:
    return None if estimate is None else f"{estimate['low']:.3g} to {estimate['high']:.3g}"


def analysis_tables(results: Results) -> Sequence[Table]:
    """All tables of this module, those without a row left out."""
    tables = (
        notes_table(results),
        forecast_table(results),
        fidelity_table(results),
        cut_table(results),
        rank_table(results),
        many_to_one_table(results),
        atlas_table(results),
        pairs_table(results),
        sae_table(results),
        geometry_table(results),
        feature_table(results),
    )
    return [table for table in tables if table.rows]
