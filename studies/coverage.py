"""Which forecast tells that a map's corpus lacks a vector's text? Maps with parts left out answer.

python -m studies.coverage

Maps are fitted on the whole corpus, on it without one part, and on single kinds of text; each carries
every behaviour's vector to every target layer at which the native one steers, and what it does there is
measured. Every figure that can be known beforehand is scored by how well it tells which carried vectors
keep the bar, thresholds chosen on other behaviours.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lrt.evaluation import Behaviour
from lrt.mapping import AffineMap, Moments, agreement, jackknife, residual_on, ridge_at, ridge_path
from lrt.report import Table
from lrt.runtime.analyses.forecast import at_shares
from lrt.runtime.entry import command
from lrt.runtime.map_fit import cosine
from lrt.runtime.rows import Rows, merged
from lrt.runtime.session import Session
from lrt.runtime.vectors import Vectors
from lrt.storage.durable import write_durably
from studies.predictor_scoring import rank_correlation, rule_telling, telling

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


class Coverage(Vectors):
    """Maps on subsets of the corpus's parts, made of the parts' moments."""

    @cached_property
    def part_rows(self) -> dict[str, Rows]:
        """The rows of every part alone."""
        return {part: Rows(self, (part,)) for part in self.config.corpus.sources}

    def folds(self, parts: Sequence[str]) -> list[Moments]:
        """Training moments of some parts, in groups of documents."""
        names = [f"train/{fold}" for fold in range(self.config.evaluation.folds)]
        found = [merged([self.part_rows[part].moments[name] for part in parts]) for name in names]
        return [fold for fold in found if fold.count]

    def fitted(self, parts: Sequence[str]) -> tuple[AffineMap, float]:
        """The ridge map of some parts and its weight."""
        validation = merged([self.part_rows[part].moments["validation"] for part in parts])
        fit = ridge_path(merged(self.folds(parts)), validation, bias=self.config.map.bias)
        return fit.map, fit.weight

    def subsets(self) -> dict[str, tuple[str, ...]]:
        """The corpora tried: all parts, all but one, each alone, and a few halves drawn of them."""
        parts = tuple(self.config.corpus.sources)
        found = {"all": parts}
        found |= {f"without {part}": tuple(p for p in parts if p != part) for part in parts}
        found |= {f"{part} alone": (part,) for part in parts}
        generator = torch.Generator().manual_seed(self.config.seed)
        for draw in range(HALVES):
            drawn = torch.randperm(len(parts), generator=generator)[: max(1, len(parts) // 2)].tolist()
            found[f"half {draw}"] = tuple(parts[i] for i in sorted(drawn))
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a behaviour, target layer and corpus: what was known, and the share of the native change
        that it kept."""
        subsets = self.subsets()
        maps = {name: self.fitted(parts) for name, parts in subsets.items()}
        everything, _ = maps["all"]
        known = {name: self._known(parts, *maps[name], everything) for name, parts in subsets.items()}
        for behaviour, layer in itertools.product(self.studied, self.stacks[1].layers):
            kept = self._kept(behaviour, layer, {name: affine for name, (affine, _) in maps.items()})
            for name, ratio in kept.items():
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
        """What can be said beforehand of every contrast at every target layer."""
        bias, stack = self.config.map.bias, self.stacks[1]
        folds = self.folds(parts)
        whole = merged(folds)
        halves = at_shares([merged(folds[half::2]) for half in (0, 1)], weight, bias=bias)
        # the corpus with one part left out at a time; one part alone is cut into its documents instead
        rest = (
            [self.folds([p for p in parts if p != part]) for part in parts]
            if len(parts) > 1
            else [[fold for fold in folds if fold is not left_out] for left_out in folds]
        )
        without = [
            ridge_at(moments, weight * moments.count / whole.count, bias=bias)
            for moments in map(merged, rest)
        ]
        inverse = torch.linalg.inv(whole.scatter_xx / whole.count + weight / whole.count * _eye(whole))
        vectors = {name: states.source_vector for name, states in self.states.items()}
        found = {}
        for layer in stack.layers:
            columns = stack.columns(layer)
            noise = jackknife(folds, vectors, weight, bias=bias, columns=columns)
            at_layer = affine.onto(columns)
            for name, states in self.states.items():
                v = vectors[name]
                prompts = torch.cat(states.source).double() - whole.mean_x
                told = noise[name]
                found[name, layer] = {
                    "signal_to_noise": min(told.signal_to_noise, NO_NOISE),
                    "signal_to_noise_independent": min(
                        told.signal / max(told.optimistic_error, told.signal / NO_NOISE), NO_NOISE
                    )
                    if told.signal
                    else 0.0,
                    "agreement_documents": agreement(halves, v, columns).mean,
                    "agreement_parts": min(agreement([affine, other], v, columns).mean for other in without),
                    "agreement_whole_corpus": agreement([affine, everything], v, columns).mean,
                    # squared distance of the prompts from the corpus, per dimension: 1 within it
                    "distance_of_prompts": -float(((prompts @ inverse) * prompts).sum(1).mean())
                    / whole.d_source,
                    "residual_on_prompts": -residual_on(
                        at_layer,
                        torch.cat(states.source),
                        stack.part(torch.cat(states.target), layer),
                        centred=True,
                    ),
                    "cosine": cosine(at_layer.directions(v), stack.part(states.target_vector, layer)),
                }
        return found

    def _kept(self, behaviour: Behaviour, layer: int, maps: dict[str, AffineMap]) -> dict[str, float]:
        """Share of the native change by each map, on development items; none where the native vector does
        not steer at the layer."""
        states = self.states[behaviour.contrast]
        if not self.chosen(behaviour, at=layer).choice.steers:
            return {}
        images = {"native": states.target_vector}
        images |= {name: affine.directions(states.source_vector) for name, affine in maps.items()}
        directions = {name: [self.stacks[1].part(image, layer)] for name, image in images.items()}
        doing = f"{behaviour.name}, block {layer}"
        scores = self.kept_scores(behaviour, directions, "development", doing, layer)
        (none,), (native,) = scores["none"], scores["native"]
        moved = native - none
        return {name: float((scores[name][0] - none).mean() / moved.mean()) for name in maps}


def _eye(moments: Moments) -> torch.Tensor:
    return torch.eye(moments.d_source, dtype=torch.float64)


def main(config: DictConfig) -> dict[str, Any]:
    """Records the parts once, fits every subset from their moments, steers, and scores the forecasts."""
    with Session.of(config, "coverage") as session:
        run = Coverage(session.config, session)
        run.check()
        run.store  # noqa: B018
        run.states  # noqa: B018
        with session.stage("coverage"):
            rows = list(run.rows())
        file = Path(session.config.paths.report) / "coverage.json"
        # before anything can be wrong with the scores: steering is what costs
        write_durably(file, json.dumps({"bar": BAR, "rows": rows}, indent=1).encode())
        outcome, contrasts = [r["ratio"] for r in rows], [r["contrast"] for r in rows]
        scored = {}
        for name in (*PREDICTORS, "cosine"):
            said = [r[name] for r in rows]
            ranked = rank_correlation(said, outcome, contrasts, session.config.seed)
            scored[name] = {"spearman_ci": ranked.to_list(), **asdict(telling(said, outcome, contrasts, BAR))}
        shipped = session.config.analysis
        rule = rule_telling(
            [[r[name] for r in rows] for name in ("signal_to_noise", "residual_on_prompts")],
            [shipped.signal_to_noise, -shipped.residual_on_prompts],
            outcome,
            contrasts,
            BAR,
        )
        found = {
            "bar": BAR,
            "kept": sum(r["ratio"] >= BAR for r in rows),
            "scored": scored,
            "warning": asdict(rule),
            "rows": rows,
        }
        write_durably(file, json.dumps(found, indent=1).encode())
        table = Table(
            f"Which figure tells a carried vector that keeps {BAR:.0%}: {len(rows)} of "
            f"{len(set(contrasts))} contrasts at {len({r['layer'] for r in rows})} layers, {found['kept']} "
            "keep it; interval over contrasts",
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
        session.console.print(table.rich())
        session.console.print(
            f"The report's warning (signal to noise under {shipped.signal_to_noise:g} or residual over "
            f"{shipped.residual_on_prompts:.0%}): balanced accuracy {rule.fixed:.2f} as shipped, "
            f"{rule.accuracy:.2f} with both thresholds chosen on the other contrasts; it warns of "
            f"{rule.alarms:.0%} of the vectors that fall short and of {rule.false_alarms:.0%} of the others."
        )
        return found


if __name__ == "__main__":
    sys.exit(command(main, "coverage"))
