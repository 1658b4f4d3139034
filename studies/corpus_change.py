"""What does another corpus do to a transferred vector, and does the second interval cover it?

python -m studies.corpus_change

The corpus is packed again with other documents, and again with other weights of its parts too.
Each corpus gives its own map. The score of a vector is the cosine of `W v` with the native vector, which
needs no steering. Its interval by one corpus, of the refits that the report's second interval is made of,
should hold the mean over corpora of the shipped weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lrt.cli.command import command
from lrt.cli.session import Session
from lrt.config import Corpus
from lrt.config.corpus import CorpusSource, StorybookSource
from lrt.errors import InvalidValue
from lrt.evaluation import ContrastStates
from lrt.evaluation.suites import build_suite
from lrt.mapping import ClosedFormSpec
from lrt.pipeline import (
    CorpusText,
    RowSource,
    SharedDocuments,
    contrasts_of,
    extract_vectors,
    load_pair,
    plan_layers,
    plan_states,
)
from lrt.pipeline.nulls import Refit
from lrt.report import Table
from lrt.storage.durable import write_durably
from studies.coverage import CONF

ALIKE, REWEIGHTED = 6, 8  # corpora
REFITS = 60
SPREAD = 0.5  # standard deviation of the weights of parts, as a share of their own
SHARES = (0.0, 0.25, 0.5)  # evaluation.part_weights that are tried
DEVIATIONS = 2.2  # Student's t of 11 degrees of freedom, the interval's of 12 refits


def corpora(shipped: Corpus) -> list[tuple[Corpus, bool]]:
    """Other documents at the shipped weights; and at others, which the second entry says."""
    drawn = []
    for number in range(ALIKE + REWEIGHTED):
        generator, other = torch.Generator().manual_seed(number), number >= ALIKE
        weights = (1 + SPREAD * other * torch.randn(len(shipped.sources), generator=generator)).clamp(min=0.1)
        sources: dict[str, CorpusSource] = {}
        for (name, source), weight in zip(shipped.sources.items(), weights.tolist(), strict=True):
            if not isinstance(source, StorybookSource):
                raise InvalidValue(f"corpus.sources.{name} has no seed: give parts of kind storybook")
            seed = 1000 * (number + 1) + source.seed
            sources[name] = replace(source, seed=seed, weight=weight * source.weight)
        drawn.append((replace(shipped, sources=sources, seed=number), other))
    return drawn


def score(transferred: Tensor, native: Tensor) -> Tensor:
    """Cosine `[..., k]` of transferred vectors `[..., k, d_target]` with the native ones `[k, d_target]`."""
    return torch.nn.functional.cosine_similarity(transferred.double(), native.double(), dim=-1)


def scored(
    refit: Refit, states: Mapping[str, ContrastStates], seed: int
) -> tuple[Tensor, dict[float, Tensor]]:
    """The score `[k]` of every contrast by one corpus, and its standard deviation over refits by share."""
    source, native = (
        torch.stack([getattr(states[name], side) for name in sorted(states)])
        for side in ("source_vector", "target_vector")
    )
    whole, without = refit.data.reference_ridge.map.directions(source), refit.without_parts(source)
    change = whole[:, None] - torch.stack([*without.values()], 1)  # [k, parts, d_target]
    drawn = torch.stack([directions(source) for directions in refit.resampled(REFITS, seed)])
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(REFITS, *change.shape[:2], generator=generator, dtype=change.dtype)
    moved = torch.einsum("rkp,kpd->rkd", weights, change)
    return score(whole, native), {s: score(drawn + s * moved, native).std(0) for s in SHARES}


def main(config: DictConfig) -> dict[str, Any]:
    """Records every corpus, solves its map and refits, and counts how often the interval holds the mean."""
    with Session.of(config, steps=1) as session:
        settings, cache, monitor = session.config, session.cache, session.monitor
        pair = load_pair(settings.pair, session.models)
        suite = build_suite(settings.suite, lambda: pair.template)
        plan = plan_layers(settings.layers, settings.recording, pair)
        every, contrasts = corpora(settings.corpus), contrasts_of(suite)
        monitor.step(f"Recording {len(every)} corpora, with a map of each")
        scores, deviations = [], []
        for number, (corpus, _) in enumerate(every):
            text = CorpusText(corpus, pair, cache, monitor)
            states = plan_states(pair, plan.recorded, text, settings.recording, cache, monitor)
            states.record()
            norms = states.median_norms
            vectors = extract_vectors(pair, plan.recorded, contrasts, norms, (), cache, monitor)
            excluded = SharedDocuments(text, suite, cache, monitor)
            rows = RowSource(states, text, excluded, session.row_settings, cache, monitor)
            refit = Refit(rows.of(plan.candidates), ClosedFormSpec())
            value, spread = scored(refit, vectors.at(plan.candidates), number)
            scores.append(value)
            deviations.append(torch.stack([spread[share] for share in SHARES]))
        value, spread_of = torch.stack(scores), torch.stack(deviations)  # [corpora, k], [corpora, shares, k]
        other = torch.tensor([reweighted for _, reweighted in every])
        mean = value[~other].mean(0)
        table = []
        for name, some in (("other documents", ~other), ("other weights too", other)):
            for column, share in enumerate(SHARES):
                error = spread_of[some, column]
                held = ((value[some] - mean).abs() <= DEVIATIONS * error).double().mean()
                observed = float(value[some].std(0).mean())
                table.append((name, int(some.sum()), share, observed, float(error.mean()), float(held)))
        columns = ("corpora", "number", "part_weights", "deviation", "by refits", "interval holds the mean")
        session.print_table(Table("Scores over corpora", columns, tuple(table)))
        found = {"contrasts": sorted(contrasts), "scores": value.tolist(), "rows": table}
        write_durably(session.report / "corpus_change.json", json.dumps(found, indent=1).encode())
        return found


if __name__ == "__main__":
    sys.exit(command(main, "corpus_change", CONF))
