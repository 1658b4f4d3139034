"""What a person sees at the end of a step: terminal tables, the report, and the same in W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrt.cli.lineage import log_nodes, nodes_of_maps, report_node
from lrt.cli.panels import generations_table, log_maps, log_results
from lrt.cli.session import Session
from lrt.models.sides import SIDES
from lrt.pipeline import CorpusText, LayerPlan
from lrt.pipeline.evaluation import Studied
from lrt.pipeline.maps import Maps
from lrt.pipeline.states import RecordedStates, States
from lrt.report import fit_table, format_layers, summary_tables, write_report


def recording(layers: LayerPlan, text: CorpusText, states: States) -> str:
    """What is recorded, and where it will be."""
    tokens = text.settings.tokens
    what = ", ".join(f"{side} {format_layers(layers.recorded.of(side).layers)}" for side in SIDES)
    where = f": {states.folder}" if isinstance(states, RecordedStates) else ", on the fly"
    return f"Recording states of {what} over {tokens.train + tokens.validation + tokens.test:,} tokens{where}"


def fitting(maps: Maps) -> str:
    """Which maps are fitted."""
    source, target = maps.whole.layers
    names = ", ".join(fit.name for fit in maps.all)
    return f"Fitting {len(maps.all)} maps, {source.total} -> {target.total}: {names}"


def maps(session: Session, maps: Maps, cards: Mapping[str, Mapping[str, Any]], states: States) -> None:
    """The fitted maps beside their optima, and the same in W&B."""
    session.print_table(fit_table(cards))
    for fit in maps.all:
        session.print(f"map, {fit.name}: {fit.folder}")
    cards = session.published.masked(cards)
    session.tracking.wandb(lambda run: log_maps(run, cards, maps.whole.name))
    if session.config.logging.artifacts:
        nodes = nodes_of_maps(session.config.pair.name, maps, states)
        session.tracking.wandb(lambda run: log_nodes(run, nodes))


def report(session: Session, results: dict[str, Any], studied: Sequence[Studied], maps: Maps) -> None:
    """The report, the headline table, and the same in W&B."""
    results = session.published.masked(results)
    page = write_report(results, session.report)
    for table in summary_tables(results):
        session.print_table(table)
    session.reported(page)
    generations = generations_table(studied)
    shown = replace(generations, rows=tuple(map(tuple, session.published.masked(generations.rows))))
    session.tracking.wandb(lambda run: log_results(run, results, shown))
    if session.config.logging.artifacts:
        measured = results["provenance"]["fingerprints"]["measurements"]
        node = report_node(session.config.pair.name, session.report, measured, maps)
        session.tracking.wandb(lambda run: log_nodes(run, [node]))
