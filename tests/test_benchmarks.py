"""That what the benchmarks compare gives the same answers; how fast is for them to say."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("clock", "models", "sweeping", "fitting", "recording", "run"):
        monkeypatch.delitem(sys.modules, name, raising=False)


pytestmark = pytest.mark.usefixtures("benches")
SHAPE = (64, 96, 4, 2)


def test_our_sweep_and_the_protocol_it_is_timed_against_give_the_same_answers() -> None:
    import sweeping

    put = sweeping.task(3, SHAPE, 500)
    ours, theirs = sweeping.ours(put), sweeping.bench_protocol(put)
    assert ours.shape == (len(sweeping.STRENGTHS), 3)
    assert float((ours - theirs).abs().max()) < 1e-4
    assert float((ours - ours[3]).abs().max()) > 1e-3  # the strengths do something


def test_the_recipe_is_the_papers() -> None:
    import fitting
    from running import composed

    config = composed("train", "experiment=paper_base", "suite=storybook")
    assert config.batches.rows == fitting.PAPER_BATCH
    steps = config.fit.epochs * config.corpus.tokens.train / config.batches.rows
    assert abs(steps - fitting.PAPER_STEPS) <= 1


@pytest.mark.slow
def test_every_part_of_a_benchmark_runs() -> None:
    import fitting
    import recording

    small: Any = {"rows": 4096, "widths": (16, 24)}
    rows = [*fitting.optimum_rows(**small), fitting.lightning_row(runs=1, steps=8, batch=64)]
    rows += [recording.early_exit_row(runs=1, blocks=1)]
    assert all(row.ratio > 0 for row in rows)
    assert rows[-1].more["identical"]
    assert torch.get_default_dtype() == torch.float32
