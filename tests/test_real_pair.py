"""A real pair, where the reader has one: `LRT_REAL_MODELS=MODELS LRT_DATA=DATA make test-real`, as for
`make reproduce-real` (docs/results). About a quarter of an hour on 2 cores."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from running import run_apart

from lrt.activations import ActivationStore
from lrt.activations.quantised import Quantised
from lrt.corpora import SPLITS
from lrt.mapping import Moments, ridge_path

pytestmark = pytest.mark.real


def r2_of(store: ActivationStore, source: str, target: str, *, rounded: bool) -> float:
    """R2 on test tokens of the ridge map between two recorded layers, massive tokens and first positions left
    out; `rounded` as `recording.states=int8` keeps the states."""
    found: dict[str, Moments] = {}
    limits = {name: 10 * store.manifest.median_norms[name] for name in (source, target)}
    for split in SPLITS:
        moments = found[split] = Moments(store.width("source"), store.width("target"))
        for shard in store.shards(split):
            reader = store.reader(shard)
            keep = reader.rows("position", 0, shard.rows) > 0
            states = {}
            for name, limit in limits.items():
                norms, rows = (reader.rows(column, 0, shard.rows) for column in (f"norm.{name}", name))
                keep &= norms <= limit
                states[name] = Quantised.of(rows, norms).rows(0, shard.rows) if rounded else rows
            moments.update(*(states[name][keep].float() for name in (source, target)))
    fit = ridge_path(found["train"], found["validation"])
    return 1 - found["test"].fvu_of(fit.map)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def results(artifacts: Path) -> dict[str, Any]:
    """French on a small corpus of the experiment's own mixture."""
    missing = [name for name in ("LRT_REAL_MODELS", "LRT_DATA") if name not in os.environ]
    if missing:
        pytest.fail(f"set {' and '.join(missing)} to the folders that make reproduce-real takes")
    folder = artifacts
    ran = run_apart(
        "train",
        "experiment=real",
        f"pair.models={os.environ['LRT_REAL_MODELS']}",
        "evaluate=true",
        "~suite.parts.propensity",
        "~suite.parts.refusal",
        "suite.parts.texts.names=[french]",
        "suite.parts.texts.development=8",
        "suite.parts.texts.test=12",
        "layers.source=[0.63]",  # one block: the moments of six fill gigabytes for each part of the corpus
        "layers.target=[0.65]",
        "recording.source=[]",
        "recording.target=[]",
        "corpus.tokens.train=24576",
        "corpus.tokens.validation=4096",
        "corpus.tokens.test=4096",
        "evaluation.grid.strengths=[0.0,0.35]",
        "analysis.fidelity_tokens=0",
        "logging.mode=disabled",
        f"paths.artifacts={folder}/artifacts",
        f"paths.report={folder}/report",
        f"hydra.run.dir={folder}/run",
        timeout=3000,
        OMP_NUM_THREADS=str(os.cpu_count()),
    )
    assert ran.code == 0, ran.output[-3000:]
    found: dict[str, Any] = json.loads(Path(folder, "report", "results.json").read_text())
    return found


def test_massive_activations_hold_the_variance(results: dict[str, Any]) -> None:
    found = results["map"]
    assert found["fvu"] < found["fvu_tokens"] < 0.7
    # and say nothing of how well the rest is explained
    assert abs(found["fvu_unfiltered"] - found["fvu_tokens"]) > 0.1


def test_french_is_carried_and_its_nulls_fail(results: dict[str, Any]) -> None:
    (french,) = results["behaviours"]
    assert french["unsteered"] < 0.05
    assert french["native"] > 0.5
    assert french["ratio"] > 0.5
    assert max(french["nulls"].values()) < 0.3


@pytest.mark.usefixtures("results")
def test_a_byte_an_entry_changes_next_to_nothing(artifacts: Path) -> None:
    (folder,) = artifacts.glob("artifacts/activations/*")
    store = ActivationStore.open(folder)
    source, target = f"source.{store.plan.source.layers[0]}", f"target.{store.plan.target.layers[-1]}"
    whole, rounded = (r2_of(store, source, target, rounded=each) for each in (False, True))
    assert whole > 0.2
    assert abs(whole - rounded) < 0.0005
