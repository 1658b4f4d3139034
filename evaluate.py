"""Carry steering vectors across a fitted map and measure what they do: native, transferred, nulls.

    python evaluate.py            # with the same settings that train.py was given

Writes report/index.html, report/results.json and report/report.md.
"""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from lrt.runtime import Pipeline, Session, command, outcome, show


def main(config: DictConfig) -> dict[str, Any]:
    """The paper's section 3, with what it takes to believe it."""
    with Session.of(config, "evaluate") as session:
        pipeline = Pipeline(session.config, session)
        pipeline.check()
        cards = pipeline.cards()  # of the maps train.py made; says how where one is missing
        pipeline.states  # noqa: B018  vectors of source, target and the untrained control
        pipeline.studies  # noqa: B018  strength on development items, everything else on test items
        show.evaluation(session, results := pipeline.results())
        return outcome(pipeline.model_names, cards[pipeline.whole.name], session.seconds, results)


if __name__ == "__main__":
    sys.exit(command(main, "evaluate"))
