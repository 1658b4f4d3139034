"""Every pair of a grid of layers, from one pass of both models and no store.

lrt atlas atlas.source=8 atlas.target=8 [the settings of train.py]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import wandb
from omegaconf import DictConfig

from lrt.cli.command import command
from lrt.cli.session import Session
from lrt.config import ConfigError, read_section
from lrt.models.sides import SIDES
from lrt.pipeline import (
    CorpusText,
    LayerPlan,
    RowSource,
    SharedDocuments,
    contrasts_of,
    extract_vectors,
    load_pair,
)
from lrt.pipeline.grid_atlas import AtlasSettings, GridAtlas, grid_layers
from lrt.pipeline.preflight import check_names, check_recording
from lrt.pipeline.provenance import provenance
from lrt.pipeline.results import describe
from lrt.pipeline.states import StatesOnTheFly
from lrt.pipeline.vectors import prompts_digests
from lrt.report.atlas import non_finite_table, write_atlas_report
from lrt.report.layer_tables import atlas_figure, atlas_metrics, atlas_table, pairs_table
from lrt.storage.fingerprint import fingerprint

PAIRS_SHOWN = 10  # in the terminal


def main(composed: DictConfig) -> None:
    """The grid, one pass of both models, its page."""
    settings, rest = read_section(composed, "atlas", AtlasSettings)
    with Session.of(composed, steps=4, settings=rest) as session:
        config, cache, monitor = session.config, session.cache, session.monitor

        if len(config.pair.sources) > 1:
            raise ConfigError(
                f"pair.source names {len(config.pair.sources)} models, and an atlas is of the layers of one: "
                "name one"
            )
        monitor.step(f"Loading the pair: {config.pair.label}")
        with monitor.stage("load pair"):
            pair = load_pair(config.pair, session.models)
            suite, pair = pair.with_suite(config.suite)
            layers = grid_layers(settings, pair)
            check_recording(pair, suite, LayerPlan(layers, layers, frozenset()))
            names = config.evaluation.behaviours
            check_names("evaluation.behaviours", names, [behaviour.name for behaviour in suite])
        contrasts = contrasts_of(each for each in suite if not names or each.name in names)
        text = CorpusText(config.corpus, pair, cache, monitor)
        states = StatesOnTheFly(pair, layers, text, replace(config.recording, states="none"), cache, monitor)
        excluded = SharedDocuments(text, suite, cache, monitor)
        excluded.check([()])
        rows = RowSource(states, text, excluded, session.row_settings, cache, monitor)
        atlas = GridAtlas(settings, pair, states, rows, config.recording, prompts_digests(contrasts))
        atlas.check()

        monitor.step(f"Extracting steering vectors: {len(contrasts)} contrastive sets")
        vectors = extract_vectors(pair, layers, contrasts, states.median_norms, (), cache, monitor)

        pairs = len(layers.source.layers) * len(layers.target.layers)
        gigabytes = atlas.memory_bytes / 1e9
        monitor.step(f"Making the atlas of {pairs} pairs of layers: {gigabytes:.3g} GB beside the models")
        cells = atlas.cells(vectors.states)

        monitor.step(f"Reporting: {session.report}")
        results: dict[str, Any] = {
            "pair": {"name": pair.name, **{side: describe(pair.model(side)) for side in SIDES}},
            "grid": {side: layers.of(side).layers for side in SIDES},
            "pool": config.pool,
            **cells,
            "memory_gb": atlas.memory_bytes / 1e9,
            "seconds": monitor.seconds,
            "provenance": {
                **provenance(),
                "fingerprints": {"atlas": fingerprint(atlas.facts)},
                "config": session.yaml,
            },
        }
        results = session.published.masked(results)
        page = write_atlas_report(results, session.report)
        for table in (pairs_table(results, PAIRS_SHOWN), atlas_table(results), non_finite_table(results)):
            if table.rows:
                session.print_table(table)
        session.reported(page, "atlas")
        session.leave_latest({})
        figures = {f"atlas/{m}": m for m in atlas_metrics(results)}
        session.tracking.wandb(
            lambda run: run.log({k: wandb.Image(atlas_figure(results, m)) for k, m in figures.items()})
        )


if __name__ == "__main__":
    sys.exit(command(main, "atlas"))
