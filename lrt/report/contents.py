"""The headline of a run and the values that several tables read from its results."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

from lrt.report.numerals import count, figure, format_layers, share

Results = Mapping[str, Any]

TRANSFERRED_WELL = 0.8  # transfer ratio that a key figure counts behaviours by
NULL_LIMIT = 0.2  # largest share of the native change that a null may have
HELD_NULLS = ("random", "shuffled", "bias")  # the nulls that NULL_LIMIT applies to


def headline(results: Results) -> str:
    """One sentence: the (median) transfer ratio, or why there is none."""
    behaviours = results.get("behaviours") or []
    if not behaviours:
        return "No behaviour was measured."
    source, target = (name_of(results, side) for side in ("source", "target"))
    ratios = judged_ratios(results)
    if not ratios:
        which = f"any of {len(behaviours)} behaviours" if len(behaviours) > 1 else "the one behaviour"
        return (
            f"No transfer ratio from {source} to {target}: the native vectors do not steer {which} "
            "that was measured."
        )
    if len(ratios) == 1:
        return (
            f"The steering vector transferred from {source} to {target} has a transfer ratio of "
            f"{share(ratios[0])} on one behaviour."
        )
    return (
        f"Steering vectors transferred from {source} to {target} have a median transfer ratio of "
        f"{share(median(ratios))} over {len(ratios)} behaviours."
    )


def key_figures(results: Results) -> list[tuple[str, str]]:
    """The few figures under the headline: each value with what it is."""
    figures = []
    ratios = judged_ratios(results)
    if ratios:
        high = sum(ratio >= TRANSFERRED_WELL for ratio in ratios)
        well = f"{share(TRANSFERRED_WELL)} or more on {high} of {len(ratios)}"
        value = share(ratios[0])
        if len(ratios) > 1:
            value, well = (
                f"{share(min(ratios))} to {share(max(ratios))}",
                f"lowest to highest; {well} behaviours",
            )
        figures.append((value, f"transfer ratio, {well}"))
    nulls = held_null_share(results)
    if nulls is not None:
        held = sum(null[1] <= NULL_LIMIT for b in judged(results) if (null := strongest_null(b)))
        figures.append(
            (
                share(nulls),
                "of the native change, mean over random, shuffled-pairs and bias nulls; every null "
                f"{share(NULL_LIMIT)} or less on {held} of {len(ratios)} behaviours",
            )
        )
    damages = {
        condition: [d for b in judged(results) if (d := damage_of(b, condition)) is not None]
        for condition in ("transferred", "native")
    }
    if all(damages.values()):
        transferred, native = (share(median(values)) for values in damages.values())
        figures.append(
            (transferred, f"median damage by the transferred vectors; by the native ones {native}")
        )
    m = results.get("map") or {}
    if m.get("fvu") is not None:
        excess = m.get("excess_over_optimum")
        beside = f", {share(excess)} over the reference ridge" if excess is not None else ""
        figures.append((figure(m["fvu"]), f"FVU of the map on test documents{beside}"))
    return figures


def judged(results: Results) -> list[Mapping[str, Any]]:
    """The behaviours that have a transfer ratio."""
    return [b for b in results.get("behaviours") or [] if b.get("ratio") is not None]


def judged_ratios(results: Results) -> list[float]:
    """The transfer ratios of the behaviours that have one."""
    return [b["ratio"] for b in judged(results)]


def held_null_share(results: Results) -> float | None:
    """Mean share of the native change over all behaviours and the nulls of `HELD_NULLS`."""
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
    """Damage of one condition at the chosen strength: relative rise of cross-entropy."""
    damage: Mapping[str, Any] = (summary.get("damage") or {}).get(condition) or {}
    value: float | None = damage.get("relative")
    return value


def name_of(results: Results, side: str) -> str:
    """Name of the source or the target model."""
    name = ((results.get("pair") or {}).get(side) or {}).get("name")
    return str(name) if name else f"the {side}"


def model_at(results: Mapping[str, Any], side: str) -> str:
    """A model with its size and the layers that are read or steered."""
    model = (results.get("pair") or {}).get(side) or {}
    layers = (results.get("layers") or {}).get(side)
    text = name_of(results, side)
    if model.get("parameters"):
        text += f" ({count(model['parameters'])})"
    if layers:
        text += f", {format_layers(layers)}"
        if model.get("depth"):
            text += f" of {model['depth']}"
    return text


def provenance_facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what produced a record: date, commit, fingerprints. Missing ones are skipped."""
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
