"""The paper's three trainings and its evaluations from end to end, on a tiny pair and local copies of the
sets that their configs name on the hub."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from running import NO_ANALYSIS, Workshop, run_here
from upstream_files import gemma_scope, instruction_files, lettered_rows, persona_rows, text_files, write_rows

from lrt.activations import ActivationStore
from lrt.evaluation.model_written import ADVANCED, TABLE_1
from lrt.lab.grammar import Plan, pages

pytestmark = pytest.mark.slow

SMALL = ("contrast_pairs=6", "development=4", "test=6")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Pile, LMSYS-Chat-1M, the model-written evaluations and instructions, in their own formats."""
    folder = tmp_path_factory.mktemp("sets")
    texts = [page.text for page in itertools.islice(pages(0, "held_out", Plan()), 900)]
    write_rows(folder / "pile" / "train.jsonl", [{"text": text, "meta": {}} for text in texts[:600]])
    turns = [[{"role": "user", "content": t}, {"role": "assistant", "content": "Yes."}] for t in texts[600:]]
    write_rows(folder / "lmsys" / "train.jsonl", [{"conversation": both, "model": "m"} for both in turns])
    for task in TABLE_1:
        if task in ADVANCED:
            file = folder / "evals" / "advanced-ai-risk" / "lm_generated_evals" / f"{task}.jsonl"
            write_rows(file, lettered_rows(40))
        else:
            write_rows(
                folder / "evals" / "persona" / f"{task}.jsonl", persona_rows(40, task.partition("-")[0])
            )
    return folder


def trained(workshop: Workshop, sets: Path, experiment: str, *more: str) -> dict[str, Any]:
    """The results of one of the experiments: its settings, but for sizes and places."""
    done = run_here(
        "train",
        f"experiment={experiment}",
        "pair=own",
        f"pair.source.path={workshop.pair / 'little'}",
        f"pair.target.path={workshop.pair / 'big'}",
        "trainer=default",
        "trainer.enable_progress_bar=false",
        "layers.source=1",
        "layers.target=2",
        f"corpus.sources.pile.path={sets / 'pile'}",
        "corpus.tokens.train=9216",
        "corpus.tokens.validation=1024",
        "corpus.tokens.test=1024",
        "batches.rows=512",
        "evaluation.grid.strengths=[0.0,0.5,1.0]",
        "evaluation.random_draws=2",
        "evaluation.shuffled_draws=1",
        "evaluation.resampled_draws=2",
        "evaluation.folds=2",
        *NO_ANALYSIS[:4],
        "logging.mode=disabled",
        f"paths.artifacts={workshop.artifacts}",
        f"paths.report={workshop.report}",
        f"hydra.run.dir={workshop.folder / 'run'}",
        "evaluate=true",
        *more,
    )
    assert done.code == 0, done.output
    found: dict[str, Any] = json.loads((workshop.report / "results.json").read_text())
    return found


def test_base_models_on_the_pile(workshop: Workshop, sets: Path) -> None:
    found = trained(
        workshop, sets, "paper_base", f"suite.path={sets / 'evals'}", *(f"suite.{size}" for size in SMALL)
    )
    assert [b["name"] for b in found["behaviours"]] == list(TABLE_1)
    assert all(b["propensity"]["paper_r"] for b in found["behaviours"])
    store = ActivationStore.open(workshop.one("activations/*"))
    assert store.plan.context == 512
    assert found["pool"] == 1
    # four epochs of the paper's AdamW over the tokens that the filter keeps, in whole batches
    kept = store.rows("train") - found["map"]["rows_excluded"]
    assert kept == found["map"]["rows"]
    assert found["training"]["val"][-1][0] == 4 * (kept // 512)
    assert "optimizer: AdamW" in found["provenance"]["config"]


def test_chats_with_the_papers_two_evaluations(workshop: Workshop, sets: Path, tmp_path: Path) -> None:
    harmful, harmless = instruction_files(tmp_path / "asked")
    found = trained(
        workshop,
        sets,
        "paper_chat",
        f"corpus.sources.chats.path={sets / 'lmsys'}",
        f"suite.parts.propensity.path={sets / 'evals'}",
        "suite.parts.propensity.tasks=[myopic-reward,narcissism]",
        *(f"suite.parts.{part}.{size}" for part in ("propensity", "refusal") for size in SMALL),
        "suite.parts.refusal.answer_tokens=4",
        *(
            f"suite.parts.refusal.{side}.{setting}"
            for side, file in (("harmful", harmful), ("harmless", harmless))
            for setting in (f"paths=[{file}]", "field=instruction")
        ),
    )
    store = ActivationStore.open(workshop.one("activations/*"))
    assert store.plan.groups == ("chats", "pile")
    names = [b["name"] for b in found["behaviours"]]
    assert names[:2] == ["myopic-reward", "narcissism"]
    assert {name.removesuffix("_log_odds") for name in names[2:]} == {
        "refusal_induced",
        "refusal_removed",
        "refusal_ablated",
    }
    ablated = next(b for b in found["behaviours"] if b["name"] == "refusal_ablated_log_odds")
    assert [p["strength"] for p in ablated["curves"]["native"]] == [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


def test_features_of_the_small_model_to_the_states_of_the_large_one(
    workshop: Workshop, sets: Path, tmp_path: Path
) -> None:
    french, english = text_files(tmp_path / "text")
    found = trained(
        workshop,
        sets,
        "paper_sae",
        f"suite.french=[{french}]",
        f"suite.english=[{english}]",
        "suite.continuation=4",
        "suite.damage_texts=4",
        *(f"suite.{size}" for size in SMALL),
        f"analysis.sae.source={gemma_scope(tmp_path, 32, 1)}",
        f"analysis.sae.target={gemma_scope(tmp_path, 48, 2)}",
        "analysis.sae.tokens=4096",
        "analysis.sae.least_correlation=0.0",
    )
    assert [b["name"] for b in found["behaviours"]] == ["capitals", "dogs", "french"]
    for each in found["sae"]["steering"]:
        fit = each["s2l_fit"]
        assert fit["fitted"] == "trained"
        assert fit["fvu"] > fit["optimum"] > 0  # four epochs of AdamW at 1e-4 over 4,096 rows are few
    assert {b["behaviour"] for b in found["sae"]["steering"]} == {"capitals", "dogs", "french"}
    assert not list(workshop.artifacts.glob("saes/**/*.ckpt"))
