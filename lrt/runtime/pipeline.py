"""The stages from two models to a report, each made once and found again by its fingerprint.

A stage is a property: asking for a result makes what it needs. `train.py` and `evaluate.py` read
the same stages of the same config, so the one finds what the other made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lrt.evaluation import (
    Behaviour,
    StrengthGrid,
    Study,
    directions,
    end_tokens,
    other_contrast,
    study,
    study_rows,
    summarise,
)
from lrt.evaluation.journal import Journal
from lrt.evaluation.rescoring import rescore, rescored_rows, scorer_facts, summarise_rescored, text_id
from lrt.evaluation.study_io import kept_study
from lrt.lab.shipped import family_card, folder_of, shipped
from lrt.mapping import LayerConcat
from lrt.models import (
    LanguageModel,
)
from lrt.report import layers_told
from lrt.runtime.analyses import Analyses
from lrt.runtime.analyses.features import check_files
from lrt.runtime.automatic import automatic_layers, check_memory
from lrt.runtime.map_fit import MapFit
from lrt.runtime.provenance import provenance
from lrt.runtime.vectors import Vectors
from lrt.steering import prompts_digest
from lrt.storage.fingerprint import fingerprint

log = logging.getLogger(__name__)


class Pipeline(Vectors):
    """All stages of one config: adds the measurements and the result."""

    @property
    def model_names(self) -> dict[str, str]:
        """The pair's models by side."""
        return {"source": self.source.spec.name, "target": self.target.spec.name}

    @cached_property
    def stacks(self) -> tuple[LayerConcat, LayerConcat]:
        """The layers of source and target that the map is between, chosen where the config says auto."""
        return automatic_layers(self) if self.automatic else self.candidates

    # -- the maps --------------------------------------------------------------------------------

    @cached_property
    def whole(self) -> MapFit:
        """The map of the whole corpus."""
        return MapFit(self, (), self.suite)

    @cached_property
    def fits(self) -> dict[str, MapFit]:
        """Every map by name: that of the whole corpus, and those of the parts that carry behaviours."""
        carried: dict[tuple[str, ...], list[Behaviour]] = {}
        for behaviour in self.suite:
            if parts := self.parts_that_carry(behaviour):
                carried.setdefault(parts, []).append(behaviour)
        fits = [MapFit(self, parts, tuple(behaviours)) for parts, behaviours in carried.items()]
        return {fit.name: fit for fit in (self.whole, *fits)}

    @cached_property
    def analyses(self) -> Analyses:
        """What is told of the maps beside their use."""
        return Analyses(self, self.whole, len(self.fits))

    def check(self) -> None:
        """Everything that can be known to be wrong before work begins; raises ValueError."""
        super().check()
        if self.automatic:  # the rest once the layers are known, before the fit
            check_memory(self)
            check_files(self)
        else:
            self.analyses.check()

    def map_of(self, behaviour: Behaviour) -> MapFit:
        """The map that carries a behaviour's vector."""
        parts = self.parts_that_carry(behaviour)
        return next(fit for fit in self.fits.values() if fit.parts == parts)

    def fit(self) -> dict[str, dict[str, Any]]:
        """Trains what is not there yet; the cards of all maps by name."""
        if self.automatic:
            self.analyses.check()
        return {name: fit.fit()[1] for name, fit in self.fits.items()}

    def cards(self) -> dict[str, dict[str, Any]]:
        """The cards of all maps by name. Raises MapMissing saying which `train.py` line makes them."""
        return {name: fit.card() for name, fit in self.fits.items()}

    # -- the evaluation ------------------------------------------------------------------------

    @cached_property
    def studies_fingerprint(self) -> str:
        """Of the raw measurements."""
        evaluation = asdict(self.config.evaluation)
        evaluation.pop("during_training")
        for name in ("max_rows", "behaviours"):  # batches, and how many are measured
            evaluation.pop(name)
        evaluation["grid"].pop("ablation_fractions")  # of those that ablate alone
        # the only one there was: measurements that are kept say none
        if evaluation["grid"]["unit"] == "residual_norm":
            evaluation["grid"].pop("unit")
        return fingerprint(
            {
                "version": 3,  # prompts drawn in pairs, answers read off float32 logits
                "maps": {name: fit.fingerprint for name, fit in self.fits.items()},
                "evaluation": evaluation,
                "seed": self.config.seed,
                # of the generation config, which is no part of a model's identity
                "ends": [end_tokens(model) for model in (self.source, self.target)],
            }
        )

    @cached_property
    def studies(self) -> list[tuple[Behaviour, Study]]:
        """The raw record of every studied behaviour, measured or found; one that is stopped goes on."""
        folder = self.artifacts / "measurements" / self.studies_fingerprint
        found = []
        with self.session.stage("evaluate"):
            for behaviour in self.studied:
                file = folder / f"{behaviour.name}-{self._study_digest(behaviour)[:12]}.jsonl"
                layer = self.chosen(behaviour).choice.layer
                if told := self.analyses.forecasts.of(self.map_of(behaviour), behaviour, layer)["warning"]:
                    log.warning("%s: %s", behaviour.name, told)
                found.append((behaviour, kept_study(file, partial(self._study, behaviour))))
        log.info("%d behaviours measured with nulls: %s", len(found), folder)
        return found

    def _study_digest(self, behaviour: Behaviour) -> str:
        """Of what is measured of one behaviour beside the maps and settings of all."""
        other = other_contrast(behaviour.contrast, self.contrasts)
        rival = self.contrasts.get(other) if other else None
        return fingerprint(
            {
                # other scorers of the same texts may come later
                "behaviour": replace(behaviour, extra_scorers=()).to_data(),
                "other": prompts_digest(rival.positives, rival.negatives) if rival else None,
                **({"shares": self._grid(behaviour).strengths} if behaviour.operation == "ablate" else {}),
            }
        )

    def _grid(self, behaviour: Behaviour) -> StrengthGrid:
        return self.config.evaluation.grid.of(behaviour)

    def _study(self, behaviour: Behaviour, journal: Journal) -> Study:
        evaluation = self.config.evaluation
        states, fit = self.states, self.map_of(behaviour)
        chosen, source = self.chosen(behaviour), self.chosen(behaviour, "source")
        units = directions(
            behaviour.contrast,
            states,
            fit.maps,
            whole=self.whole.fitted_map()[0] if fit is not self.whole else None,
            stack=self.stacks[1],
            layer=chosen.choice.layer,
            random_draws=evaluation.random_draws,
            seed=self.config.seed,
        )
        grid = self._grid(behaviour)
        rows = study_rows(behaviour, grid, {n: len(u) for n, u in units.items()}, evaluation.eval_split)
        with self.session.progress(behaviour.name, rows) as advance:
            return study(
                behaviour,
                source.model,
                self.recorded_stacks[0].part(
                    self.recorded_states[behaviour.contrast].source_vector, source.choice.layer
                ),
                chosen,
                units,
                grid,
                split=evaluation.eval_split,
                temperature=evaluation.temperature,
                max_rows=evaluation.max_rows,
                progress=advance,
                journal=journal,
            )

    def _rescored(self, behaviour: Behaviour, found: Study) -> list[dict[str, Any]]:
        """What other scorers say of the texts that were written."""
        folder = self.artifacts / "measurements" / self.studies_fingerprint
        told = []
        for scorer in behaviour.extra_scorers:
            name = type(scorer).__name__.lower()
            digest = fingerprint(scorer_facts(scorer))
            file = folder / f"{behaviour.name}-{name}-{digest[:12]}.json"
            rows = len({text_id(row) for row in rescored_rows(found)})
            with self.session.progress(f"{behaviour.name}, by {name}", rows) as advance:
                scores = rescore(scorer, behaviour, found, file, advance)
            told.append(summarise_rescored(found, name, scores, self._grid(behaviour), self.config.seed))
        return told

    # -- the result ----------------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """Everything the report says, as plain data: `report/results.json`."""
        cards = self.cards()
        card = cards[self.whole.name]
        behaviours = [
            {
                **summarise(b, s, self._grid(b), self.config.seed),
                "map": self.map_of(b).name,
                "rescored": self._rescored(b, s),
                "forecast": self.analyses.forecasts.of(self.map_of(b), b, s.choice.layer),
                "whole_corpus_forecast": None
                if self.map_of(b) is self.whole
                else self.analyses.forecasts.of(self.whole, b, s.choice.layer),
            }
            for b, s in self.studies
        ]
        analyses = self.analyses.results
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
            "pool": card["pool"],
            "map": map_facts(card),
            "maps": [
                {
                    "name": name,
                    "fitted_for": [b.name for b in self.suite if self.map_of(b).name == name],
                    **map_facts(found),
                    "training": found["training"],
                }
                for name, found in cards.items()
            ],
            "split": self.config.evaluation.eval_split,
            "behaviours": behaviours,
            **analyses,
            "models": self._model_cards(),
            "training": card["training"],
            "configurations_tried": {
                "target layers": len(self.candidates[1].layers),
                "source layers": len(self.candidates[0].layers) if self.automatic else 1,
                "strengths": max(b["strengths_tried"] for b in behaviours),
                "behaviours": len(behaviours),
            },
            "seconds": seconds,
            "provenance": {
                **origin,
                "fingerprints": {
                    "store": self.store_fingerprint,
                    "map": self.whole.fingerprint,
                    **{f"map, {name}": fit.fingerprint for name, fit in self.fits.items() if fit.parts},
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


def map_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of one map."""
    kept = ("rows", "rows_excluded", "rows_excluded_by", "fingerprint")
    solved = card["solved"] or {}
    return {
        "kind": card["map"]["kind"],
        "note": solved.get("note"),
        **card["metrics"],
        **{key: card[key] for key in kept},
    }


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
