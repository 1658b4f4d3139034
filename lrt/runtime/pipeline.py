"""The stages from two models to a report, each made once and found again by its fingerprint.

A stage is a property: asking for a result makes what it needs. `train.py` and `evaluate.py` read
the same stages of the same config, so the one finds what the other made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lrt.activations import (
    pairs_with_other_source,
)
from lrt.evaluation import (
    Behaviour,
    Study,
    TransferMaps,
    directions,
    end_tokens,
    study,
    study_rows,
    summarise,
)
from lrt.evaluation.records import read_study, write_study
from lrt.lab.shelf import family_card, folder_of, shipped
from lrt.mapping import (
    AffineMap,
    Moments,
    ridge_at,
)
from lrt.models import (
    LanguageModel,
)
from lrt.report import layers_told
from lrt.runtime.fingerprints import fingerprint
from lrt.runtime.fitted import Fitted
from lrt.runtime.provenance import provenance
from lrt.runtime.recorded import merged

log = logging.getLogger(__name__)


class Pipeline(Fitted):
    """All stages of one config: adds the measurements and the result."""

    @property
    def model_names(self) -> dict[str, str]:
        """The pair's models by side."""
        return {"source": self.source.spec.name, "target": self.target.spec.name}

    # -- the evaluation ------------------------------------------------------------------------

    @cached_property
    def maps(self) -> TransferMaps:
        """The map under test and those of its nulls and intervals, all in closed form but the first."""
        affine, _ = self.fitted_map()
        evaluation, bias = self.config.evaluation, self.config.map.bias
        weight = self.yardstick.weight
        folds = [m for name, m in self.moments.items() if name.startswith("train/")]
        folds = [m for m in folds if m.count]
        generator = torch.Generator().manual_seed(self.config.seed)
        resampled = []
        for _ in range(evaluation.resampled_draws):
            drawn = torch.randint(len(folds), (len(folds),), generator=generator).tolist()
            resampled.append(ridge_at(merged([folds[i] for i in drawn]), weight, bias=bias))
        shuffled = [
            ridge_at(moments, weight, bias=bias)
            for name, moments in self.moments.items()
            if name.startswith("shuffled/")
        ]
        untrained = self._untrained_map() if evaluation.untrained_source else None
        return TransferMaps(affine, shuffled, resampled, untrained)

    def _untrained_map(self) -> AffineMap:
        name = fingerprint({**self.rows_facts, "source": self.untrained_identity})
        folder = self.artifacts / "moments" / name

        def gather() -> dict[str, Moments]:
            moments = Moments(self.stacks[0].total, self.stacks[1].total)
            pairs = pairs_with_other_source(self.store, "train", self.untrained, self.selection)
            with self.session.progress("the untrained source", self.data.rows["train"]) as advance:
                for batch in pairs:
                    moments.update(batch["source"], batch["target"])
                    advance(len(batch["source"]))
            return {"train": moments}

        moments = self._cached_moments(folder, gather)["train"]
        # An untrained source has its own scale: the same share of its mean eigenvalue.
        share = self.yardstick.weight / float(self.train_moments.scatter_xx.trace())
        weight = max(share, 1e-9) * float(moments.scatter_xx.trace())
        return ridge_at(moments, weight, bias=self.config.map.bias)

    @cached_property
    def studies_fingerprint(self) -> str:
        """Of the raw measurements."""
        evaluation = asdict(self.config.evaluation)
        evaluation.pop("probe")
        evaluation.pop("max_rows")
        return fingerprint(
            {
                "map": self.map_fingerprint,
                "evaluation": evaluation,
                "seed": self.config.seed,
                # of the generation config, which is no part of a model's identity
                "ends": [end_tokens(model) for model in (self.source, self.target)],
            }
        )

    @cached_property
    def studies(self) -> list[tuple[Behaviour, Study]]:
        """Every behaviour's raw record, measured or found; one that is stopped goes on where it was."""
        folder = self.artifacts / "measurements" / self.studies_fingerprint
        found = []
        with self.session.stage("evaluate"):
            for behaviour in self.suite:
                digest = fingerprint(behaviour.to_data())
                file = folder / f"{behaviour.name}-{digest[:12]}.jsonl"
                if not file.is_file():
                    write_study(file, self._study(behaviour))
                found.append((behaviour, read_study(file)))
        log.info("%d behaviours measured with nulls: %s", len(found), folder)
        return found

    def _study(self, behaviour: Behaviour) -> Study:
        evaluation = self.config.evaluation
        states = self.states
        chosen, source = self.chosen(behaviour), self.chosen(behaviour, "source")
        units = directions(
            behaviour.contrast,
            states,
            self.maps,
            stack=self.stacks[1],
            layer=chosen.choice.layer,
            random_draws=evaluation.random_draws,
            seed=self.config.seed,
        )
        rows = study_rows(behaviour, evaluation.grid, {n: len(u) for n, u in units.items()}, evaluation.items)
        with self.session.progress(behaviour.name, rows) as advance:
            return study(
                behaviour,
                source.model,
                self.stacks[0].part(states[behaviour.contrast].source_vector, source.choice.layer),
                chosen,
                units,
                evaluation.grid,
                split=evaluation.items,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
            )

    # -- the result ----------------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """Everything the report says, as plain data: `report/results.json`."""
        _, card = self.fitted_map()
        grid = self.config.evaluation.grid
        behaviours = [summarise(b, s, grid, self.config.seed) for b, s in self.studies]
        metrics = card["metrics"]
        # a stage that was found, not made, keeps what making it took
        took = self.session.seconds
        seconds = {name: max(s, took.get(name, 0.0)) for name, s in card["seconds"].items()}
        seconds |= {name: s for name, s in took.items() if name not in seconds}
        origin = provenance()
        return {
            "pair": {
                "name": self.config.pair.name,
                "source": describe(self.source),
                "target": describe(self.target),
            },
            "layers": card["layers"],
            "span": card["span"],
            "map": {
                "kind": card["map"]["kind"],
                **metrics,
                "rows": card["rows"],
                "rows_left_out": card["rows_left_out"],
                "rows_left_out_by": card["rows_left_out_by"],
                "fingerprint": self.map_fingerprint,
            },
            "split": self.config.evaluation.items,
            "behaviours": behaviours,
            "models": self._model_cards(),
            "training": card["training"],
            "configurations_tried": {
                "layers": len(self.stacks[1].layers),
                "strengths": max(b["strengths_tried"] for b in behaviours),
                "behaviours": len(behaviours),
            },
            "seconds": seconds,
            "provenance": {
                **origin,
                "fingerprints": {
                    "store": self.store_fingerprint,
                    "map": self.map_fingerprint,
                    "measurements": self.studies_fingerprint,
                },
                "config": self.session.resolved.get("yaml", ""),
            },
        }

    def _model_cards(self) -> list[dict[str, Any]]:
        """The cards of the pair, and of the rest of the family where the pair is of it."""
        pair = [(self.config.pair.source, self.source), (self.config.pair.target, self.target)]
        cards: list[dict[str, Any]] = []
        for spec, model in pair:
            note = "not of the storybook family: no checks are known for it"
            card = family_card(Path(spec.path)) or {**describe(model), "checks": [], "note": note}
            cards.append(card)
        if all(Path(spec.path) in map(folder_of, shipped()) for spec, _ in pair):
            named = {card["name"] for card in cards}
            rest = (family_card(folder_of(name)) for name in shipped() if name not in named)
            cards += [card for card in rest if card]
        return cards


def describe(model: LanguageModel) -> dict[str, Any]:
    """Name, depth in blocks, width and parameter count of a model."""
    return {
        "name": model.spec.name,
        "depth": model.depth,
        "width": model.width,
        "parameters": sum(p.numel() for p in model.model.parameters()),
    }


def outcome(
    models: Mapping[str, str],  # names by side
    card: Mapping[str, Any],
    seconds: Mapping[str, float],
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a sweep's row says of a job that went well: its map and, where it was evaluated, its ratios."""
    found = {
        **models,
        **{f"{side}_layer": layers_told(card["layers"][side]) for side in ("source", "target")},
        **{k: card["metrics"][k] for k in ("fvu", "r2", "excess_over_optimum")},
        "seconds": sum(seconds.values()),
    }
    if results is None:
        return found
    ratios = {b["name"]: b["ratio"] for b in results["behaviours"]}
    given = [ratio for ratio in ratios.values() if ratio is not None]
    mean = sum(given) / len(given) if given else None
    return found | {"split": results["split"], "ratios": ratios, "mean_ratio": mean}
