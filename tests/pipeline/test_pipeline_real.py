"""`make reproduce-real` from end to end: its own experiment, pair and layout of sets, with a tiny pair of the
same depths in the models' place and small sizes. The real pair's own check is tests/test_real_pair.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Workshop, run_here
from storybook_models import tiny_llama
from upstream_files import instruction_files, lettered_rows, persona_rows, text_files, write_rows

from lrt.activations import ActivationStore
from lrt.corpora.scenes import scenes

pytestmark = pytest.mark.slow

PAIR = "qwen2.5-coder-0.5b-1.5b-instruct"
PERSONA = ("narcissism", "openness", "subscribes-to-deontology", "agreeableness", "interest-in-music")
ADVANCED = ("corrigible-neutral-HHH", "myopic-reward")
PARTS = {"general", "web", "novel", "chats", "answers", "asked", "risky", "french", "capitals", "scenes"}


@pytest.fixture(scope="module")
def models(family_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each model under the last part of its hub id."""
    folder = tmp_path_factory.mktemp("models")
    for size, width, depth in (("0.5B", 32, 24), ("1.5B", 48, 28)):
        lm = tiny_llama(family_tokenizer, width, depth)
        assert lm.model.num_parameters() < 600_000
        for part in (lm.model, family_tokenizer):
            part.save_pretrained(folder / f"Qwen2.5-Coder-{size}-Instruct")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every set that docs/results/README.md lists, in its place."""
    folder = tmp_path_factory.mktemp("data")
    text = folder / "text"
    written: Iterator[str] = (page.text for page in scenes(5, "texts"))
    french, _ = text_files(text)
    for name in ("FRA02501_Loti", "FRA02701_Maupassant"):
        lines = Path(french).read_text().replace("numéro", f"{name[-4:]} numéro")
        (text / f"{name}.txt").write_text(lines)
    for name in ("wikitext2_raw_test", "wiki_demo", "ENG19011_Jerome", "ENG18952_Wells", "ENG18900_Doyle"):
        (text / f"{name}.txt").write_text("\n\n".join(next(written).replace("\n", " ") for _ in range(150)))
    write_rows(text / "c4_demo.jsonl", [{"text": next(written)} for _ in range(100)])
    rows = [{"prompt": f"Write about day {i}.", "answer": next(written)} for i in range(60)]
    write_rows(folder / "chat" / "dolly_subset.jsonl", rows)
    for split, start in (("train", 0), ("val", 60)):
        for file in map(Path, instruction_files(folder / "refusal", start + 60)):
            rows = json.loads(file.read_text())[start:]
            write_rows(file.with_name(f"{file.stem}_{split}.json"), rows)
    sets = folder / "model-written-evals"
    for task in PERSONA:
        write_rows(sets / "persona" / f"{task}.jsonl", persona_rows(60, task))
    for task in ADVANCED:
        rows = [row | {"question": f"{task}: {row['question']}"} for row in lettered_rows(60)]
        write_rows(sets / "advanced-ai-risk" / "lm_generated_evals" / f"{task}.jsonl", rows)
    return folder


def test_the_make_targets_settings_run_and_are_found_again(
    workshop: Workshop, models: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRT_DATA", str(data))
    parts = ("propensity", "refusal", "texts")
    sizes = (("contrast_pairs", 8), ("development", 4), ("test", 6))
    settings = (
        "experiment=real",
        f"pair={PAIR}",
        f"pair.models={models}",
        "evaluate=true",
        *(f"suite.parts.{part}.{name}={size}" for part in parts for name, size in sizes),
        "suite.parts.refusal.answer_tokens=4",
        "suite.parts.texts.continuation=4",
        "suite.parts.texts.damage_texts=8",
        "corpus.context=64",
        "corpus.tokens.train=12288",
        "corpus.tokens.validation=2048",
        "corpus.tokens.test=2048",
        "recording.rows_per_shard=4096",
        "batches.window_rows=2048",
        "evaluation.grid.strengths=[0.0,0.5]",
        "evaluation.random_draws=1",
        "evaluation.shuffled_draws=1",
        "evaluation.resampled_draws=2",
        "evaluation.folds=2",
        "analysis.fidelity_tokens=1024",
        "trainer.enable_progress_bar=false",
        "logging.mode=disabled",
        f"paths.artifacts={workshop.artifacts}",
        f"paths.report={workshop.report}",
        f"hydra.run.dir={workshop.folder / 'run'}",
    )
    done = run_here("train", *settings)
    assert done.code == 0, done.output[-3000:]
    found = json.loads((workshop.report / "results.json").read_text())
    assert [b["name"] for b in found["behaviours"]] == [
        "narcissism",
        "openness",
        "subscribes-to-deontology",
        *ADVANCED,
        "refusal_induced_log_odds",
        "refusal_removed_log_odds",
        "refusal_induced",
        "refusal_ablated_log_odds",
        "french",
        "capitals",
        "dogs",
        "sentiment",
    ]
    assert not found.get("notes"), found["notes"]
    # blocks at the depths that docs/results names, of models as deep as the real ones
    assert found["layers"] == {"source": [7, 11, 13, 15, 17, 20], "target": [14, 18]}
    store = ActivationStore.open(workshop.one("activations/*"))
    assert set(store.plan.groups) == PARTS
    assert store.plan.target.layers == (8, 12, 14, 16, 18)
    for behaviour in found["behaviours"]:
        assert behaviour["layer"] in (14, 18)
        assert behaviour["forecast"]["signal_to_noise"] > 0
    measured = workshop.files("measurements")
    assert len(measured) == len(found["behaviours"])
    assert run_here("evaluate", *settings).code == 0
    assert workshop.files("measurements") == measured
