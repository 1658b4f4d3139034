"""Tables of the sparse autoencoders: fit, relation of their decoders, steering by features."""

from __future__ import annotations

from lrt.report.contents import Results
from lrt.report.fidelity_tables import estimate_interval
from lrt.report.numerals import share_interval
from lrt.report.palette import behaviour_name
from lrt.report.table import Cell, Table


def sae_table(results: Results) -> Table:
    """The sparse autoencoder of each model, on test tokens."""
    saes = results.get("sae") or {}
    rows: list[tuple[Cell, ...]] = [
        (side, s["layer"], s["kind"], s["features"], s["fvu"], s["l0"], s["dead"])
        for side in ("source", "target")
        if (s := saes.get(side))
    ]
    columns = ("model", "layer", "kind", "features", "FVU", "active features per row", "share never active")
    return Table("Sparse autoencoders", columns, tuple(rows))


def geometry_table(results: Results) -> Table:
    """Decoder directions of one model predicted from the other's, on held-out features (paper 2.2)."""
    geometry = (results.get("sae") or {}).get("geometry") or {}
    directions = {"forward": "source to target", "backward": "target to source"}
    decoders = {
        "matched": "features matched by co-activation",
        "random": "random decoders, matched alike",
        "shuffled": "matching shuffled",
    }
    rows: list[tuple[Cell, ...]] = []
    if geometry.get("note"):
        rows.append((decoders["matched"], geometry["note"], None, None, None, None, None))
    for name, label in decoders.items():
        score = geometry.get(name)
        if score is not None:
            rows += [
                (
                    label,
                    direction,
                    score["scored"],
                    score[key]["r2"]["value"],
                    estimate_interval(score[key]["r2"]),
                    score[key]["cosine"]["value"],
                    estimate_interval(score[key]["cosine"]),
                )
                for key, direction in directions.items()
            ]
        elif name == "random" and geometry.get("random_pairs") is not None:
            rows.append((label, f"too few pairs: {geometry['random_pairs']}", None, None, None, None, None))
    return Table(
        "Are the decoders linearly related?",
        (
            "decoders",
            "direction",
            "features scored",
            "R²",
            "95% interval of R²",
            "mean cosine",
            "95% interval of the cosine",
        ),
        tuple(rows),
        ("decoders", "R²", "direction", "mean cosine"),
    )


def feature_table(results: Results) -> Table:
    """Steering by source features: s2l beside l2l, as shares of the native change (paper 3.2)."""
    names = {"s2l": "s2l", "l2l_features": "l2l of the same features", "l2l": "l2l of the vector"}
    rows: list[tuple[Cell, ...]] = []
    for each in (results.get("sae") or {}).get("steering") or []:
        fit = each.get("s2l_fit") or {}
        rows.append(
            (
                behaviour_name(each["behaviour"]),
                each["layer"],
                each["strength"],
                each["share_of_vector"],
                *(
                    cell
                    for name in names
                    for cell in (each[name]["ratio"], share_interval(each[name]["ratio_ci"]))
                ),
                each["other_features"]["mean"],
                fit.get("fitted"),
                fit.get("fvu"),
                fit.get("optimum"),
            )
        )
    return Table(
        "Steering by features, as shares of the native change",
        (
            "behaviour",
            "layer",
            "strength",
            "cosine of features with the vector",
            *(column for name in names.values() for column in (name, f"95% interval, {name}")),
            "other features, s2l",
            "fit of s2l",
            "FVU of s2l, validation",
            "FVU of the reference ridge",
        ),
        tuple(rows),
        ("behaviour", *names.values(), "other features, s2l"),
    )
