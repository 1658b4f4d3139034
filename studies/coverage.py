"""Which forecast predicts that a map's corpus lacks a vector's text? Tested on maps of parts of a corpus.

python -m studies.coverage

Maps are fitted on the whole corpus, on it without one part, and on single kinds of text. Each transfers every
behaviour's vector to every target layer at which the native vector steers, and its effect there is measured.
Every figure that is known beforehand is scored by how well it predicts which transferred vectors reach the
bar, with thresholds chosen on other behaviours.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lrt.cli.command import command
from lrt.cli.session import Session
from lrt.evaluation import Behaviour
from lrt.evaluation.suites import build_suite
from lrt.mapping import (
    AffineMap,
    Moments,
    agreement,
    cosine,
    directions_of_halves,
    independent_error,
    jackknife,
    merge_all,
    residual_on,
    ridge_directions,
    ridge_path,
)
from lrt.pipeline import (
    Choices,
    CorpusText,
    LayerPair,
    RowSource,
    SharedDocuments,
    check_run,
    contrasts_of,
    extract_vectors,
    load_pair,
    plan_layers,
    plan_states,
)
from lrt.report import Table
from lrt.storage.durable import write_durably
from studies.predictor_scoring import rank_correlation, score_predictor, score_rule

CONF = Path(__file__).parent / "conf"
BAR = 0.8
HALVES = 6
NO_NOISE = 1e6  # more than any vector has
# Figures known before any steering; for the last the target's states on the prompts are needed. Of those
# that rise with what is wrong the sign is turned, so that higher is better for all.
PREDICTORS = (
    "signal_to_noise",
    "signal_to_noise_independent",
    "agreement_documents",
    "agreement_parts",
    "agreement_whole_corpus",
    "distance_of_prompts",
    "residual_on_prompts",
)


class Coverage:
    """Maps on subsets of the corpus's parts, made of the parts' moments.

    layers  Between which every map is fitted.
    """

    def __init__(
        self, rows: RowSource, layers: LayerPair, choices: Choices, behaviours: Sequence[Behaviour]
    ) -> None:
        self.layers, self.choices, self.behaviours = layers, choices, behaviours
        self.parts, self.settings = rows.text.parts, rows.settings
        self.states = choices.vectors.at(layers)
        self.part_data = {part: rows.of(layers, (part,)) for part in self.parts}

    def folds(self, parts: Sequence[str]) -> list[Moments]:
        """Training moments of some parts, in groups of documents."""
        names = [f"train/{fold}" for fold in range(self.settings.folds)]
        folds = [merge_all([self.part_data[part].moments[name] for part in parts]) for name in names]
        return [fold for fold in folds if fold.count]

    def fitted(self, parts: Sequence[str]) -> tuple[AffineMap, float]:
        """The ridge map of some parts and its weight."""
        validation = merge_all([self.part_data[part].moments["validation"] for part in parts])
        fit = ridge_path(merge_all(self.folds(parts)), validation, bias=self.settings.bias)
        return fit.map, fit.weight

    def subsets(self) -> dict[str, tuple[str, ...]]:
        """The corpora tried: all parts, all but one, each alone, and a few halves drawn of them."""
        parts = self.parts
        subsets = {"all": parts}
        subsets |= {f"without {part}": tuple(p for p in parts if p != part) for part in parts}
        subsets |= {f"{part} alone": (part,) for part in parts}
        generator = torch.Generator().manual_seed(self.settings.seed)
        for draw in range(HALVES):
            drawn = torch.randperm(len(parts), generator=generator)[: max(1, len(parts) // 2)].tolist()
            subsets[f"half {draw}"] = tuple(parts[i] for i in sorted(drawn))
        return subsets

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a behaviour, target layer and corpus: what is known beforehand, and the transfer ratio."""
        subsets = self.subsets()
        maps = {name: self.fitted(parts) for name, parts in subsets.items()}
        everything, _ = maps["all"]
        known = {name: self._known(parts, *maps[name], everything) for name, parts in subsets.items()}
        for behaviour, layer in itertools.product(self.behaviours, self.layers.target.layers):
            ratios = self._ratios(behaviour, layer, {name: affine for name, (affine, _) in maps.items()})
            for name, ratio in ratios.items():
                yield {
                    "behaviour": behaviour.name,
                    "contrast": behaviour.contrast,
                    "layer": layer,
                    "corpus": name,
                    **known[name][behaviour.contrast, layer],
                    "ratio": ratio,
                }

    def _known(
        self, parts: Sequence[str], affine: AffineMap, weight: float, everything: AffineMap
    ) -> dict[tuple[str, int], dict[str, float]]:
        """The figures known beforehand of every contrast at every target layer."""
        bias, target = self.settings.bias, self.layers.target
        folds = self.folds(parts)
        whole = merge_all(folds)
        # the corpus without one part at a time; one part alone is cut into its documents instead
        rest = (
            [self.folds([p for p in parts if p != part]) for part in parts]
            if len(parts) > 1
            else [[fold for fold in folds if fold is not left_out] for left_out in folds]
        )
        inverse = torch.linalg.inv(whole.scatter_xx / whole.count + weight / whole.count * _eye(whole))
        vectors = {name: states.source_vector for name, states in self.states.items()}
        stacked = torch.stack([*vectors.values()])
        halves = directions_of_halves(folds, weight, stacked, bias=bias)
        images, of_everything = affine.directions(stacked), everything.directions(stacked)
        others = [
            ridge_directions(moments, weight * moments.count / whole.count, stacked, bias=bias)
            for moments in map(merge_all, rest)
        ]
        known = {}
        for layer in target.layers:
            columns = target.columns(layer)
            noise = jackknife(folds, vectors, weight, bias=bias, columns=columns)
            at_layer = affine.onto(columns)
            of_layer = whole.part(slice(None), columns)
            for number, (name, states) in enumerate(self.states.items()):
                v, at = vectors[name], (number, columns)
                prompts = torch.cat([states.source.positive, states.source.negative]).to(whole.mean_x)
                prompts = prompts - whole.mean_x
                estimate = noise[name]
                independent = independent_error(of_layer, at_layer, weight, v)
                known[name, layer] = {
                    "signal_to_noise": min(estimate.signal_to_noise, NO_NOISE),
                    "signal_to_noise_independent": min(
                        estimate.signal / max(independent, estimate.signal / NO_NOISE), NO_NOISE
                    )
                    if estimate.signal
                    else 0.0,
                    "agreement_documents": agreement([half[at] for half in halves]).mean,
                    "agreement_parts": min(cosine(images[at], other[at]) for other in others),
                    "agreement_whole_corpus": cosine(images[at], of_everything[at]),
                    # squared distance of the prompts from the corpus, per dimension: 1 within it
                    "distance_of_prompts": -float(((prompts @ inverse) * prompts).sum(1).mean())
                    / whole.d_source,
                    "residual_on_prompts": -residual_on(
                        at_layer,
                        torch.cat([states.source.positive, states.source.negative]),
                        target.part(torch.cat([states.target.positive, states.target.negative]), layer),
                        centred=True,
                    ),
                    "cosine": cosine(at_layer.directions(v), target.part(states.target_vector, layer)),
                }
        return known

    def _ratios(self, behaviour: Behaviour, layer: int, maps: dict[str, AffineMap]) -> dict[str, float]:
        """Transfer ratio by each map, on development items; empty where the native vector does not steer at
        the layer."""
        states = self.states[behaviour.contrast]
        if not self.choices.of(behaviour, at=layer).choice.steers:
            return {}
        images = {"native": states.target_vector}
        images |= {name: affine.directions(states.source_vector) for name, affine in maps.items()}
        directions = {name: [self.layers.target.part(image, layer)] for name, image in images.items()}
        doing = f"{behaviour.name}, layer {layer}"
        scores = self.choices.scores(behaviour, directions, "development", doing, layer)
        (none,), (native,) = scores["none"], scores["native"]
        moved = native - none
        return {name: float((scores[name][0] - none).mean() / moved.mean()) for name in maps}


def _eye(moments: Moments) -> torch.Tensor:
    return torch.eye(moments.d_source, dtype=torch.float64, device=moments.device)


def main(config: DictConfig) -> dict[str, Any]:
    """Records the parts once, fits every subset from their moments, steers, and scores the forecasts."""
    with Session.of(config, steps=4) as session:
        settings, cache, monitor = session.config, session.cache, session.monitor

        monitor.step("Loading the pair")
        pair = load_pair(settings.pair, session.models)
        suite = build_suite(settings.suite, lambda: pair.template)
        plan = plan_layers(settings.layers, settings.recording, pair)
        check_run(settings, session.fit_settings, pair, suite, plan)

        monitor.step("Recording states")
        text = CorpusText(settings.corpus, pair, cache, monitor)
        states = plan_states(pair, plan.recorded, text, settings.recording, cache, monitor)
        states.record()

        monitor.step("Extracting steering vectors")
        norms = states.median_norms
        vectors = extract_vectors(pair, plan.recorded, contrasts_of(suite), norms, (), cache, monitor)
        choices = Choices(pair, vectors, plan.candidates, states, settings.evaluation, cache, monitor)

        monitor.step("Fitting maps on subsets of the corpus, and steering with each")
        names = settings.evaluation.behaviours or [b.name for b in suite]
        studied = [next(b for b in suite if b.name == name) for name in names]
        excluded = SharedDocuments(text, suite, cache, monitor)
        rows_of = RowSource(states, text, excluded, session.row_settings, cache, monitor)
        with monitor.stage("coverage"):
            rows = list(Coverage(rows_of, plan.candidates, choices, studied).rows())
        file = session.report / "coverage.json"
        # before anything can be wrong with the scores: steering is what costs
        write_durably(file, json.dumps({"bar": BAR, "rows": rows}, indent=1).encode())
        outcome, contrasts = [r["ratio"] for r in rows], [r["contrast"] for r in rows]
        scored = {}
        for name in (*PREDICTORS, "cosine"):
            said = [r[name] for r in rows]
            ranked = rank_correlation(said, outcome, contrasts, settings.seed)
            scores = score_predictor(said, outcome, contrasts, BAR)
            scored[name] = {"spearman_ci": ranked.to_list(), **asdict(scores)}
        shipped = settings.analysis
        rule = score_rule(
            [[r[name] for r in rows] for name in ("signal_to_noise", "residual_on_prompts")],
            [shipped.signal_to_noise, -shipped.residual_on_prompts],
            outcome,
            contrasts,
            BAR,
        )
        results = {
            "bar": BAR,
            "reached": sum(r["ratio"] >= BAR for r in rows),
            "scored": scored,
            "warning": asdict(rule),
            "rows": rows,
        }
        write_durably(file, json.dumps(results, indent=1).encode())
        table = Table(
            f"Which figure predicts a transfer ratio of {BAR:.0%} or more: {len(rows)} vectors of "
            f"{len(set(contrasts))} contrasts at {len({r['layer'] for r in rows})} layers, "
            f"{results['reached']} reach it; interval over contrasts",
            ("figure", "rank correlation", "2.5%", "97.5%", "within a contrast", "accuracy", "threshold"),
            tuple(
                (
                    name.replace("_", " "),
                    s["spearman"],
                    *s["spearman_ci"],
                    *(s[column] for column in ("within", "accuracy", "threshold")),
                )
                for name, s in scored.items()
            ),
        )
        session.print_table(table)
        session.print(
            f"The report's warning (signal to noise under {shipped.signal_to_noise:g} or residual over "
            f"{shipped.residual_on_prompts:.0%}): balanced accuracy {rule.fixed:.2f} as shipped, "
            f"{rule.accuracy:.2f} with both thresholds chosen on the other contrasts; it warns of "
            f"{rule.alarms:.0%} of the vectors that fall short and of {rule.false_alarms:.0%} of the others."
        )
        return results


if __name__ == "__main__":
    sys.exit(command(main, "coverage", CONF))
