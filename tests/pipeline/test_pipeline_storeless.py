"""recording.states=none: a map, its report and its sweep of vectors without a state on the disk."""

import json
from typing import Any

import pytest
import torch
from lrt.runtime.storeless import ShuffledPairs
from running import Workshop

from lrt.mapping import Moments, load_map

SETTINGS = (
    "fit=closed_form",
    "evaluation.shuffled_draws=2",
    "evaluation.untrained_source=false",
    "evaluation.during_training.behaviours=[]",
    "evaluate=true",
)


def maps_of(workshop: Workshop) -> tuple[Any, dict[str, Any]]:
    (folder,) = workshop.artifacts.glob("maps/*")
    return load_map(folder)


@pytest.mark.parametrize("pool", [1, 4])
def test_the_map_is_that_of_a_store(workshop: Workshop, pair_folder: Any, tmp_path: Any, span: int) -> None:
    stored = Workshop(pair_folder, tmp_path / "stored")
    # all training tokens are among those that the medians are of
    settings = (*SETTINGS, f"pool={span}", "corpus.context=128")
    for run, more in ((workshop, "recording.states=none"), (stored, "recording.states=native")):
        ran = run.train(*settings, more)
        assert ran.code == 0, ran.told
    assert not [*workshop.artifacts.glob("activations/*")]
    assert [*stored.artifacts.glob("activations/*")]
    (passed, card), (wanted, other) = maps_of(workshop), maps_of(stored)
    assert card["rows"] == other["rows"] > 1000
    assert card["rows_excluded_by"] == other["rows_excluded_by"]
    scale = float(wanted.weight.abs().max())
    assert torch.allclose(passed.weight, wanted.weight, atol=1e-4 * scale)
    for name in ("fvu", "fvu_tokens", "fvu_unfiltered", "cosine"):
        assert card["metrics"][name] == pytest.approx(other["metrics"][name], rel=1e-3), name
    one, another = (json.loads((run.report / "results.json").read_text()) for run in (workshop, stored))
    assert [b["name"] for b in one["behaviours"]] == [b["name"] for b in another["behaviours"]]
    for mine, theirs in zip(one["behaviours"], another["behaviours"], strict=True):
        assert mine["native"] == pytest.approx(theirs["native"], abs=1e-4)
    # and it is found again, without another pass
    before = {path: path.stat().st_mtime_ns for path in workshop.artifacts.rglob("*") if path.is_file()}
    again = workshop.evaluate(*[s for s in settings if s != "evaluate=true"], "recording.states=none")
    assert again.code == 0, again.told
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("fit=sgd", "fit.kind=gradient"),
        ("evaluation.untrained_source=true", "evaluation.untrained_source=true"),
        ("analysis.fidelity_tokens=256", "analysis.fidelity_tokens=256"),
        ("analysis.sae.features=16", "analysis.sae"),
        ("layers.target=auto", "layers=auto"),
    ],
)
def test_what_needs_states_is_refused_before_the_pass(workshop: Workshop, override: str, told: str) -> None:
    ran = workshop.train(*SETTINGS, "recording.states=none", override)
    assert ran.code == 1
    assert f"recording.states=none keeps no states, and these settings would read them: {told}" in ran.line
    assert not [*workshop.artifacts.glob("*/*")]


def test_pairs_shuffled_in_windows_keep_every_marginal_and_no_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator)
    y = 2 * x @ torch.randn(3, 4, generator=generator) + 5
    draws, true = [Moments(3, 4), Moments(3, 4)], Moments(3, 4)
    shuffled = ShuffledPairs(draws, 1024, seed=1)
    for a, b in zip(x.split(300), y.split(300), strict=True):
        shuffled.add(a, b)
        true.update(a, b)
    shuffled.end()
    shuffled.end()
    for found in draws:
        assert found.count == true.count == 4000
        assert torch.allclose(found.scatter_xx, true.scatter_xx, rtol=1e-4, atol=1e-2)
        assert torch.allclose(found.scatter_yy, true.scatter_yy, rtol=1e-4, atol=1e-2)
        assert float(found.scatter_xy.norm()) < 0.05 * float(true.scatter_xy.norm())
    assert not torch.equal(draws[0].scatter_xy, draws[1].scatter_xy)
