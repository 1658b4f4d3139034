"""Fit a map: two models and a corpus in, an affine map between their hidden states out.

python train.py                                  # the storybook pair
python train.py layers.source=1 layers.target=2 map=low_rank map.rank=16
python train.py -m layers.source=1,2,3 layers.target=1,2,3 experiment=sweep
"""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from lrt.runtime import Pipeline, Session, command, outcome, show


def main(config: DictConfig) -> dict[str, Any] | None:
    """The paper's section 2: paired hidden states, an affine map, its distance from the optimum."""
    with Session.of(config, "train") as session:
        pipeline = Pipeline(session.config, session)
        pipeline.check()  # layers, tokenizers, settings: before anything costly
        if pipeline.keeps_states:
            pipeline.store  # noqa: B018  record both models' hidden states, or find them
        pipeline.states  # noqa: B018  contrastive prompts: the steering vectors
        cards = pipeline.fit()  # Lightning: the maps, each beside its optimum, probes of behaviour on the way
        if not session.first:  # the other processes of a distributed fit end here
            return None
        show.fit(session, pipeline, cards)
        results = None
        if session.config.evaluate:
            show.evaluation(session, results := pipeline.results())
        return outcome(pipeline.model_names, cards[pipeline.whole.name], session.seconds, results)


if __name__ == "__main__":
    sys.exit(command(main, "train"))
