"""Fit a map: two models and a corpus in, affine maps between their hidden states out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lrt.cli import show
from lrt.cli.command import command
from lrt.cli.latest import results_of
from lrt.cli.session import Session
from lrt.mapping import FitSpec
from lrt.pipeline import (
    Choices,
    CorpusText,
    RowSource,
    SharedDocuments,
    SideEffectStudies,
    Studies,
    UntrainedSource,
    check_run,
    choose_map_layers,
    extract_vectors,
    load_pair,
    needed_contrasts,
    outcome,
    plan_analyses,
    plan_layers,
    plan_maps,
    plan_side_effects,
    plan_states,
    require_maps,
    results,
)


def main(composed: DictConfig, fit: bool = True) -> Any:
    """The paper's sections 2 and 3, step by step; with `fit=False` on maps that were fitted before.

    Returns the metric that `optimized_metric` names, None where it names none.
    """
    with Session.of(composed, steps=7 if not fit or composed.evaluate else 5) as session:
        config, cache, monitor = session.config, session.cache, session.monitor

        monitor.step(f"Loading the pair: {config.pair.label}")
        with monitor.stage("load pair"):
            session.fit_settings.use_own_device()
            pair = load_pair(config.pair, session.models, layers=config.layers, weights=session.first)
            suite, pair = pair.with_suite(config.suite)
            layers = plan_layers(config.layers, config.recording, pair)
            check_run(config, session.fit_settings, pair, suite, layers, fits=fit)  # before anything costly
            evaluates = not fit or config.evaluate
            side_effects = plan_side_effects(config.evaluation, pair) if evaluates else ()
        untrained = UntrainedSource.draws(
            pair.source_spec, config.seed, config.evaluation.untrained_draws, session.models
        )

        text = CorpusText(config.corpus, pair, cache, monitor)
        states = plan_states(pair, layers.recorded, text, config.recording, cache, monitor)
        monitor.step(show.recording(layers, text, states))
        excluded = SharedDocuments(text, suite, cache, monitor)
        rows = RowSource(states, text, excluded, session.row_settings, cache, monitor)
        parts_for = {behaviour.name: config.corpus.parts_for(behaviour.name) for behaviour in suite}
        existing = None if config.evaluation.map is None else Path(config.evaluation.map)
        excluded.check({(), *parts_for.values()} if existing is None else {()})
        if fit:
            states.record()
        elif existing is None:
            require_maps(layers, parts_for, rows, session.fit_settings, session.fit_output)

        wanted = {behaviour.name: behaviour for behaviour in suite}
        evaluated = [wanted[name] for name in config.evaluation.behaviours or wanted]
        sae, during_training = config.analysis.sae, config.evaluation.during_training
        trains = fit and isinstance(session.fit_settings.fit, FitSpec)
        steered = (sae.behaviours if sae.wanted else ()) + (during_training.behaviours if trains else ())
        contrasts = needed_contrasts(suite, evaluated, steered)
        monitor.step(
            f"Extracting steering vectors: {len(contrasts)} contrastive sets for {len(evaluated)} of "
            f"{len(suite)} behaviours"
        )
        vectors = extract_vectors(
            pair, layers.recorded, contrasts, states.median_norms, untrained, cache, monitor
        )

        monitor.step("Choosing layers and strengths on development items")
        choices = Choices(pair, vectors, layers.candidates, states, config.evaluation, cache, monitor)
        map_layers = choose_map_layers(layers, evaluated, parts_for, choices, rows)

        maps = plan_maps(
            map_layers,
            suite,
            parts_for,
            rows,
            vectors,
            pair,
            session.fit_settings,
            session.fit_output,
            existing,
        )
        analyses = plan_analyses(
            config.analysis, maps, rows, layers.recorded, vectors, choices, pair, untrained
        )
        analyses.check(config.analysis.memory_bytes, bool(untrained), config.batches)
        monitor.step(show.fitting(maps))
        cards = maps.fit(config.evaluation.during_training, choices) if fit else maps.cards()
        if not session.first:  # the other processes of a distributed fit end here
            return None
        show.maps(session, maps, cards, states)

        report = None
        if evaluates:
            monitor.step(f"Evaluating {len(evaluated)} behaviours: native, transferred, nulls")
            studies = Studies(
                maps, choices, analyses.forecasts, untrained, config.evaluation, config.seed, cache, monitor
            )
            studied = studies.measure(evaluated)
            effects = SideEffectStudies(side_effects, studies)
            summaries = effects.summaries(studied)

            monitor.step(f"Reporting: {session.report}")
            report = results(
                pair, layers, maps, cards, studies, studied, analyses, session.yaml, side_effects=summaries
            )
            show.report(session, report, studied, maps)
            if config.evaluation.side_effects.lm_eval:
                effects.write_lm_eval(session.report / "lm-eval", studied)
        session.leave_latest(results_of(maps, suite, states))
        return session.finish(outcome(pair, cards[maps.whole.name], monitor.seconds, report))


if __name__ == "__main__":
    sys.exit(command(main, "train"))
