"""fit=closed_form through the real commands: the optimum, and the baselines that it ought to beat."""

import json

import pytest
from running import Ran, Workshop

from lrt.mapping import load_map


def test_the_optimum_without_training_is_evaluated_as_any_map(trained: Workshop) -> None:
    more = ("pool=1", "evaluation.during_training.behaviours=[]")
    done = trained.train("fit=closed_form", "evaluate=true", *more)
    assert done.code == 0, done.told
    results = json.loads((trained.report / "results.json").read_text())
    assert abs(results["map"]["excess_over_optimum"]) < 1e-4
    assert results["training"]["val"] == []
    assert [b["name"] for b in results["behaviours"]] == ["french", "bravery"]
    assert not list(trained.artifacts.glob("maps/*/checkpoints"))
    # and trained by gradient on the same rows it comes near, from above
    gradient_run = trained.train("fit.epochs=8", *more)
    assert gradient_run.code == 0, gradient_run.told
    cards = [load_map(folder)[1] for folder in trained.artifacts.glob("maps/*")]
    solved, gradient = sorted(cards, key=lambda card: card["fit"]["kind"])
    assert solved["metrics"]["fvu"] <= gradient["metrics"]["fvu"] * 1.001
    assert gradient["metrics"]["cosine"] == pytest.approx(solved["metrics"]["cosine"], abs=0.05)
    # one that starts there needs no way to it
    begun = trained.train("fit.start=optimum", "fit.learning_rate=1e-4", *more)
    assert begun.code == 0, begun.told
    cards = [load_map(folder)[1] for folder in trained.artifacts.glob("maps/*")]
    (begun_card,) = (c for c in cards if c["fit"].get("start") == "optimum")
    assert begun_card["metrics"]["fvu"] < gradient["metrics"]["fvu"]


@pytest.mark.parametrize(
    ("start", "kind"),
    [("ridge", "full"), ("procrustes", "full"), ("ridge", "low_rank"), ("ridge", "orthogonal")],
)
def test_a_gradient_fit_starts_at_any_closed_form(trained: Workshop, start: str, kind: str) -> None:
    # next to no steps: where it ends is where it began
    more = ("pool=1", "evaluation.during_training.behaviours=[]", "fit.epochs=1", "fit.learning_rate=1e-7")
    fvu = {}
    for begin in ("mean", start):
        before = set(trained.artifacts.glob("maps/*"))
        done = trained.train(f"map={kind}", f"fit.start={begin}", *more)
        assert done.code == 0, done.told
        (folder,) = set(trained.artifacts.glob("maps/*")) - before
        fvu[begin] = load_map(folder)[1]["metrics"]["fvu"]
    assert fvu[start] < 0.8 * fvu["mean"]


def test_restricted_kinds_and_baselines_are_ordered_as_they_must_be(trained: Workshop) -> None:
    fvu = {}
    for name, overrides in {
        "full": (),
        "per direction": ("fit.solver=ridge_per_direction",),
        "rank": ("map=low_rank", "map.rank=4"),
        "orthogonal": ("map=orthogonal",),
        "penalty": ("map=orthogonal_penalty",),
        "mean_only": ("fit.solver=mean_only",),
        "shuffled_pairs": ("fit.solver=shuffled_pairs",),
        "embeddings": ("fit.solver=embeddings",),
    }.items():
        before = set(trained.artifacts.glob("maps/*"))
        done = trained.train(
            "fit=closed_form", "pool=1", "evaluation.during_training.behaviours=[]", *overrides
        )
        assert done.code == 0, done.told
        (folder,) = set(trained.artifacts.glob("maps/*")) - before
        affine, card = load_map(folder)
        fvu[name] = card["metrics"]["fvu"]
        if name == "orthogonal":
            assert affine.describe()["orthogonality_defect"] == pytest.approx(0.0, abs=1e-9)
        if name == "rank":
            assert affine.describe()["effective_rank"] <= 4.01
    assert fvu["per direction"] < 1.05 * fvu["full"]
    assert fvu["full"] < min(fvu["rank"], fvu["orthogonal"], fvu["penalty"])
    assert fvu["penalty"] < fvu["orthogonal"]
    assert max(fvu["rank"], fvu["orthogonal"]) < fvu["mean_only"]
    assert fvu["mean_only"] == pytest.approx(1.0, abs=0.05)
    assert fvu["shuffled_pairs"] == pytest.approx(1.0, abs=0.1)
    assert fvu["embeddings"] > fvu["full"]


def refused(ran: Ran, *parts: str) -> None:
    assert ran.code == 1
    for part in parts:
        assert part in ran.line, ran.told


def test_solvers_that_cannot_be(workshop: Workshop) -> None:
    closed = ("fit=closed_form", "evaluation.during_training.behaviours=[]")
    refused(
        workshop.train(*closed, "fit.solver=identity"), "fit.solver=identity needs equal widths", "32 -> 48"
    )
    refused(
        workshop.train(*closed, "fit.solver=embeddings", "layers.source=[0,1]"),
        "one of each model; got layers.source=[0, 1]",
    )
    refused(workshop.train(*closed, "fit.solver=best"), "fit", "'optimum', 'ridge_per_direction'")
    refused(workshop.train(*closed, "fit.epochs=3"), "Could not override 'fit.epochs'")
    refused(
        workshop.train(
            "analysis.atlas=true",
            "recording.source=all",
            "batches.window_rows=1",
            "analysis.memory_gb=6.1e-4",
        ),
        "recording.source",
        "analysis.memory_gb",
    )
    assert not workshop.files("activations")
