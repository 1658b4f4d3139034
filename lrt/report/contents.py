"""What a report says of a run: its headline and its tables, from the plain results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from lrt.report.numerals import count, figure, share, share_interval
from lrt.report.palette import behaviour_name, condition_name
from lrt.report.table import Cell, Table

Results = Mapping[str, Any]

KEPT = 0.8  # share of the native change from which a transfer counts as kept
HELD_NULLS = ("random", "shuffled", "bias")  # the nulls that are held against a limit
NULL_LIMIT = 0.2


def headline(results: Results) -> str:
    """One sentence: how much of the native effect is kept, or why that cannot be said."""
    behaviours = results.get("behaviours") or []
    if not behaviours:
        return "No behaviour was measured."
    source, target = (name_of(results, side) for side in ("source", "target"))
    ratios = judged_ratios(results)
    if not ratios:
        return (
            f"The vectors of {target} itself steer none of {len(behaviours)} behaviours, so there "
            f"is nothing that a vector from {source} could be held against."
        )
    if len(ratios) == 1:
        return (
            f"The steering vector carried from {source} to {target} keeps {share(ratios[0])} of "
            "the native effect on one behaviour."
        )
    return (
        f"Steering vectors carried from {source} to {target} keep a median "
        f"{share(median(ratios))} of the native effect over {len(ratios)} behaviours."
    )


def key_figures(results: Results) -> list[tuple[str, str]]:
    """The few figures that stand under the headline, each with what it is."""
    found = []
    ratios = judged_ratios(results)
    if ratios:
        kept = sum(ratio >= KEPT for ratio in ratios)
        found.append(
            (
                f"{kept} of {len(ratios)}",
                f"behaviours keep {share(KEPT)} of the native effect or more",
            )
        )
        if len(ratios) > 1:
            found.append(
                (
                    f"{share(min(ratios))} to {share(max(ratios))}",
                    "kept, from the worst to the best",
                )
            )
    nulls = held_null_share(results)
    if nulls is not None:
        found.append(
            (
                share(nulls),
                "kept by random, shuffled-pairs and bias nulls on average",
            )
        )
        held = sum(null[1] <= NULL_LIMIT for b in judged(results) if (null := strongest_null(b)))
        found.append(
            (f"{held} of {len(ratios)}", f"hold every null to {share(NULL_LIMIT)} of the native effect")
        )
    m = results.get("map") or {}
    if m.get("fvu") is not None:
        excess = m.get("excess_over_optimum")
        beside = f", {share(excess)} over the ridge optimum" if excess is not None else ""
        found.append((figure(m["fvu"]), f"FVU of the map on test documents{beside}"))
    return found


def judged(results: Results) -> list[Mapping[str, Any]]:
    """The behaviours that have a ratio."""
    return [b for b in results.get("behaviours") or [] if b.get("ratio") is not None]


def judged_ratios(results: Results) -> list[float]:
    """Their ratios."""
    return [b["ratio"] for b in judged(results)]


def held_null_share(results: Results) -> float | None:
    """Mean share of the native change over behaviours and the nulls that have a limit."""
    shares = [
        value
        for b in results.get("behaviours") or []
        for name, value in (b.get("nulls") or {}).items()
        if name in HELD_NULLS and value is not None
    ]
    return fmean(shares) if shares else None


def strongest_null(summary: Mapping[str, Any]) -> tuple[str, float] | None:
    """The null with the largest mean share of the native change, and that share."""
    nulls = {n: v for n, v in (summary.get("nulls") or {}).items() if v is not None}
    return max(nulls.items(), key=lambda pair: pair[1]) if nulls else None


def damage_of(summary: Mapping[str, Any], condition: str) -> float | None:
    """Rise of cross-entropy under a condition, as a share of the unsteered one."""
    harm: Mapping[str, Any] = (summary.get("damage") or {}).get(condition) or {}
    value: float | None = harm.get("relative")
    return value


def name_of(results: Results, side: str) -> str:
    """Name of the source or the target model."""
    name = ((results.get("pair") or {}).get(side) or {}).get("name")
    return str(name) if name else f"the {side}"


def provenance_facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a record's figures come from: what each fact is, and the fact; what is not there is left out."""
    versions = provenance.get("versions") or {}
    facts = [
        *((name, provenance.get(name)) for name in ("date", "command", "commit", "machine")),
        *(
            (f"fingerprint of {name}", value)
            for name, value in (provenance.get("fingerprints") or {}).items()
        ),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items())),
    ]
    return [(name, str(value)) for name, value in facts if value]


def headline_table(results: Results) -> Table:
    """One row a behaviour, at the strength chosen on development items, on test items."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        null = strongest_null(b)
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
                b.get("map") or "",
                b.get("whole_corpus_ratio"),
                null[1] if null else None,
                condition_name(null[0]) if null else None,
                damage_of(b, "native"),
                damage_of(b, "transferred"),
                (b.get("matched_damage") or {}).get("ratio"),
                share_interval((b.get("matched_damage") or {}).get("ratio_ci")),
                b.get("note") or "",
            )
        )
    return Table(
        "Transfer by behaviour",
        (
            "behaviour",
            "block",
            "strength",
            "unsteered",
            "native",
            "transferred",
            "ratio",
            "interval, items",
            "interval, map too",
            "refits",
            "map",
            "ratio, map of the whole corpus",
            "strongest null",
            "which",
            "damage, native",
            "damage, transferred",
            "ratio at equal damage",
            "interval",
            "note",
        ),
        tuple(rows),
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
    return Table(
        "Scores by condition",
        (
            "behaviour",
            "score",
            "items",
            *(condition_name(c) for c in columns),
            "source, unsteered",
            "source, own vector",
        ),
        tuple(rows),
    )


def damage_table(results: Results) -> Table:
    """What every condition costs at every strength it was run at, on the behaviour's damage texts."""
    rows: list[tuple[Cell, ...]] = []
    for b in results.get("behaviours") or []:
        curves = b.get("damage_curves") or {}
        # nulls were run at the chosen strength alone
        alone = {
            name: [{**harm, "strength": b.get("strength")}]
            for name, harm in (b.get("damage") or {}).items()
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
            for name, points in {**curves, **alone}.items()
            for p in points
            if p["strength"]
        ]
    return Table(
        "Damage by condition and strength",
        (
            "behaviour",
            "condition",
            "strength",
            "rise of cross-entropy, share",
            "rise, nats a token",
            "KL, nats a token",
        ),
        tuple(rows),
    )


def null_table(results: Results) -> Table:
    """What vectors that ought to do nothing keep of the native change."""
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
    )


def rescored_table(results: Results) -> Table:
    """The same generated texts by other scorers, at the strength that the behaviour's own one chose."""
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
            "left out",
            *map(condition_name, conditions),
            "ratio",
            "interval",
        ),
        tuple(rows),
    )


def map_table(results: Results) -> Table:
    """The fitted map, on the corpus's test documents."""
    m = results.get("map") or {}
    layers = results.get("layers") or {}
    rows: list[tuple[Cell, ...]] = [
        ("kind", str(m["kind"]).replace("_", " ") if m.get("kind") else None),
        ("source blocks", _listed(layers.get("source"))),
        ("target blocks", _listed(layers.get("target"))),
        ("tokens in a row", results.get("pool")),
        ("FVU", m.get("fvu")),
        ("R²", m.get("r2")),
        ("mean cosine", m.get("cosine")),
        ("FVU of the ridge optimum", m.get("optimum_fvu")),
        ("excess over the optimum", m.get("excess_over_optimum")),
        ("ridge weight", m.get("ridge_weight")),
        ("ridge weight by generalised cross-validation", m.get("gcv_weight")),
        ("FVU with that weight", m.get("gcv_fvu")),
        ("how it was solved", m.get("note") or None),
        ("FVU of single tokens", m.get("fvu_tokens")),
        ("FVU of single tokens, none left out", m.get("fvu_unfiltered")),
        ("rows", m.get("rows")),
        ("tokens left out", m.get("rows_excluded")),
    ]
    by = m.get("rows_excluded_by") or {}
    rows += [(f"left out: {str(reason).replace('_', ' ')}", rows_) for reason, rows_ in by.items()]
    return Table(
        "The map of the whole corpus", ("quantity", "value"), tuple(r for r in rows if r[1] is not None)
    )


def _listed(layers: Sequence[int] | None) -> str | None:
    return ", ".join(map(str, layers)) if layers else None


def maps_table(results: Results) -> Table:
    """Every map of the run: what it is fitted on, what it carries, and how far it is from its optimum."""
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
        ("fitted on", "fitted_for", "rows", "FVU", "of the optimum", "excess", "of single tokens"),
        tuple(rows),
    )


def along_table(results: Results) -> Table:
    """FVU of each map along each target vector: how well its text covered what is carried. Beside it
    how far the carried vector points the native one's way."""
    rows: list[tuple[Cell, ...]] = []
    for m in results.get("maps") or []:
        cosines = m.get("cosine_with_native") or {}
        for key, value in (m.get("error_along") or {}).items():
            name, _, layer = key.partition("@")
            told = f"{behaviour_name(name)}, block {layer}" if layer else behaviour_name(name)
            rows.append((told, m["name"], value, cosines.get(key)))
    order = {told: i for i, told in enumerate(dict.fromkeys(str(row[0]) for row in rows))}
    return Table(
        "Error along each vector",
        ("vector", "map", "FVU along it", "cosine, carried with native"),
        tuple(sorted(rows, key=lambda row: order[str(row[0])])),
    )


def layer_table(results: Results) -> Table:
    """What the native vector does at every block looked at, on development items, at its best strength
    there: the block with the largest change is the one that is steered."""
    rows: list[tuple[Cell, ...]] = [
        (
            behaviour_name(b["name"]),
            t["layer"],
            t["native_change"],
            {True: "yes", False: "no"}.get(t.get("steers")),
            "steered" if t["layer"] == b["layer"] else "",
        )
        for b in results.get("behaviours") or []
        if len(tried := b.get("layers_tried") or []) > 1
        for t in tried
    ]
    return Table(
        "The block of each behaviour",
        ("behaviour", "block", "native change, development", "it steers", ""),
        tuple(rows),
    )


def model_table(results: Results) -> Table:
    """The models that took part."""
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
            "blocks",
            "width",
            "tokens seen",
            "hours",
            "cross-entropy",
            "grammar's entropy",
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
            "passed" if c.get("passed") else "missed",
        )
        for m in results.get("models") or []
        for c in m.get("checks") or []
    ]
    return Table("The models' checks", ("model", "check", "measured", "limit", "verdict"), tuple(rows))


def relation_sign(relation: str | None) -> str:
    """`>=` and `<=` as one sign."""
    return {">=": "≥", "<=": "≤"}.get(relation or "", relation or "")


def seconds_table(results: Results) -> Table:
    """Wall time by stage: of what the run found, made by another, the time of finding it."""
    seconds = results.get("seconds") or {}
    rows: list[tuple[Cell, ...]] = [(str(stage).replace("_", " "), value) for stage, value in seconds.items()]
    return Table(
        "Seconds by stage of this run; what was found, of a run before, is the time of finding it",
        ("stage", "seconds"),
        tuple(rows),
    )
