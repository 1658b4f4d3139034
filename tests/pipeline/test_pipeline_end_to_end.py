"""The two commands on a tiny pair: what they leave, that they reuse it, and that they go on after a stop."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lrt.runtime.pipeline import Pipeline
from lrt.runtime.rows import shared_ids
from lrt.runtime.schema import read_config
from lrt.runtime.session import Session
from running import MicroRun, Workshop, composed
from upstream_files import model_written_folder

from lrt.activations import ActivationDataModule, ActivationStore, PartRule, RowFilter, Selection
from lrt.evaluation import NULLS, Propensity, answered_questions
from lrt.evaluation.journal import Journal
from lrt.mapping import FitHistory, Moments, load_map
from lrt.steering import SteeringVector

pytestmark = pytest.mark.xdist_group("micro")


@pytest.fixture
def results(micro_run: MicroRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((micro_run.workshop.report / "results.json").read_text())
    return found


def test_train_leaves_a_store_a_map_and_its_vectors(micro_run: MicroRun) -> None:
    workshop = micro_run.workshop
    store = ActivationStore.open(workshop.one("activations/*"))
    store.verify(full=True)
    assert store.rows("train") == 8192
    folder = workshop.one("maps/*")
    affine, card = load_map(folder)
    assert affine.weight.shape == (48, 32)
    assert card["layers"] == {"source": [1], "target": [2]}
    assert card["fingerprint"] == folder.name
    carried = SteeringVector.load(folder / "vectors" / "french" / "transferred" / "layer-2")
    own = SteeringVector.load(folder / "vectors" / "french" / "source" / "layer-1")
    torch.testing.assert_close(carried.direction, affine.weight @ own.direction)
    assert "excess over the optimum" in micro_run.train.told


def test_nothing_is_left_that_a_killed_run_would_leave(micro_run: MicroRun) -> None:
    left = [p.name for p in micro_run.workshop.artifacts.rglob("*") if ".tmp-" in p.name]
    assert left == []
    assert not list(micro_run.workshop.artifacts.rglob("recording.json"))


def test_results_hold_what_was_asked_for(results: dict[str, Any]) -> None:
    assert results["pair"]["source"]["width"] == 32
    assert results["pair"]["target"]["width"] == 48
    assert results["layers"] == {"source": [1], "target": [2]}
    assert results["map"]["kind"] == "full"
    for key in ("fvu", "r2", "excess_over_optimum", "rows", "rows_excluded"):
        assert math.isfinite(results["map"][key])
    kept = 8192 - results["map"]["rows_excluded"]
    assert results["pool"] == 16
    assert kept / 16 <= results["map"]["rows"] <= kept / 8  # no row of less than half a span
    assert results["map"]["rows_excluded"] >= 8192 // 128  # position 0 of every block
    assert [b["name"] for b in results["behaviours"]] == ["french", "bravery"]
    for behaviour in results["behaviours"]:
        for key in ("metric", "strength", "unsteered", "native", "transferred", "paper_literal"):
            assert behaviour[key] is not None, key
        assert {"ratio", "ratio_ci"} <= set(behaviour)
        assert {"native", "transferred", "random"} <= set(behaviour["damage"])
    assert [m["name"] for m in results["models"]] == ["little", "big"]
    assert all("checks" in m for m in results["models"])
    stages = {"record hidden states", "moments", "steering vectors", "fit", "evaluate"}
    assert stages <= set(results["seconds"])


def test_every_null_is_in_the_raw_record(micro_run: MicroRun) -> None:
    for name in ("french", "bravery"):
        _, *rows = micro_run.workshop.one(f"measurements/*/{name}-*.jsonl").read_text().splitlines()
        found = {row["condition"] for row in map(json.loads, rows) if row.get("split") == "test"}
        assert {*NULLS, "native", "transferred", "paper_literal", "prompt", "source"} <= found


def test_a_stage_that_was_found_keeps_the_time_it_took(micro_run: MicroRun, results: dict[str, Any]) -> None:
    _, card = load_map(micro_run.workshop.one("maps/*"))
    # evaluate.py found the map and the store: its own times of these stages would be next to nothing
    assert results["seconds"]["fit"] == card["seconds"]["fit"] > 0.05
    assert results["seconds"]["record hidden states"] >= card["seconds"]["record hidden states"] > 0.05


def test_report_is_one_page_and_the_same_tables_in_markdown(micro_run: MicroRun) -> None:
    page = (micro_run.workshop.report / "index.html").read_text()
    assert "French" in page or "french" in page
    assert "<svg" in page
    assert 'src="http' not in page
    assert "|" in (micro_run.workshop.report / "report.md").read_text()
    assert "On test items" in micro_run.evaluate.told


def test_lightnings_test_metrics_are_those_of_the_moments(micro_run: MicroRun) -> None:
    _, card = load_map(micro_run.workshop.one("maps/*"))
    with (micro_run.workshop.folder / "train" / "csv" / "metrics.csv").open() as lines:
        (tested,) = [row for row in csv.DictReader(lines) if row["test/fvu"]]
    metrics = card["metrics"]
    for ours, logged in (
        ("fvu", "fvu"),
        ("r2", "r2"),
        ("cosine", "cosine"),
        ("excess_over_optimum", "excess"),
    ):
        assert float(tested[f"test/{logged}"]) == pytest.approx(metrics[ours], abs=1e-4), ours
    along = metrics["error_along"]["french"]
    assert float(tested["test/error_along/french"]) == pytest.approx(along, abs=1e-4)
    assert 0 < metrics["cosine"] <= 1


def test_evaluate_says_what_is_there_and_train_logs_a_csv(micro_run: MicroRun) -> None:
    lines = (micro_run.workshop.folder / "train" / "csv" / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    assert {"train/fvu", "train/learning_rate", "val/fvu", "val/excess", "behaviour/french"} <= set(columns)
    assert len(lines) > 2


def test_a_second_run_makes_nothing_again(micro_run: MicroRun) -> None:
    workshop = micro_run.workshop
    kinds = ("activations", "moments", "states", "maps", "measurements")
    before = {kind: workshop.files(kind) for kind in kinds}
    assert all(before.values())
    again = workshop.train("evaluate=true", f"paths.report={workshop.folder / 'again'}", run="again")
    assert again.code == 0, again.told
    assert {kind: workshop.files(kind) for kind in kinds} == before
    # the report is made again from the rows, to the same figures
    one, other = (json.loads((workshop.folder / f / "results.json").read_text()) for f in ("report", "again"))
    assert one["behaviours"] == other["behaviours"]
    assert one["map"] == other["map"]


def test_another_map_is_fitted_on_the_same_states(micro_run: MicroRun, workshop: Workshop) -> None:
    shutil.copytree(micro_run.workshop.artifacts, workshop.artifacts)
    before = workshop.files("activations")
    done = workshop.train("map=low_rank", "map.rank=4")
    assert done.code == 0, done.told
    assert workshop.files("activations") == before
    cards = [load_map(folder)[1] for folder in workshop.artifacts.glob("maps/*")]
    assert {card["map"]["kind"] for card in cards} == {"full", "low_rank"}
    assert len({card["store"] for card in cards}) == 1


def test_other_layers_are_fitted_on_the_same_states_where_all_are_recorded(workshop: Workshop) -> None:
    more = ("recording.source=all", "recording.target=[0.7]", "evaluation.during_training.behaviours=[]")
    one = workshop.train(*more)
    assert one.code == 0, one.told
    before = workshop.files("activations")
    other = workshop.train(*more, "layers.source=0")
    assert other.code == 0, other.told
    assert workshop.files("activations") == before
    cards = [load_map(folder)[1] for folder in workshop.artifacts.glob("maps/*")]
    assert sorted(card["layers"]["source"] for card in cards) == [[0], [1]]
    assert len({card["metrics"]["fvu"] for card in cards}) == 2
    # what else is recorded changes no map: one without it has the same weights
    alone = Workshop(workshop.pair, workshop.folder / "alone")
    assert alone.train("evaluation.during_training.behaviours=[]").code == 0
    (folder,) = (f for f in workshop.artifacts.glob("maps/*") if load_map(f)[1]["layers"]["source"] == [1])
    assert torch.equal(load_map(folder)[0].weight, load_map(alone.one("maps/*"))[0].weight)


def test_each_behaviour_is_carried_by_the_map_of_its_text(workshop: Workshop) -> None:
    carried = (
        "corpus.sources.questions.fit_map_for=[bravery]",
        "corpus.sources.stories.fit_map_for=[french]",
    )
    done = workshop.train(*carried, "evaluate=true")
    assert done.code == 0, done.told
    found = json.loads((workshop.report / "results.json").read_text())
    maps = {m["name"]: m for m in found["maps"]}
    assert {name: m["fitted_for"] for name, m in maps.items()} == {
        "whole corpus": [],
        "stories": ["french"],
        "questions": ["bravery"],
    }
    assert {b["name"]: b["map"] for b in found["behaviours"]} == {"french": "stories", "bravery": "questions"}
    assert maps["whole corpus"]["rows"] > maps["stories"]["rows"] + maps["questions"]["rows"]
    assert len({m["fvu"] for m in maps.values()}) == 3
    assert maps["whole corpus"]["fvu"] == found["map"]["fvu"]
    # its vectors lie beside each map, and what one carries is what it makes of the source's
    for name, vector in (("stories", "french"), ("questions", "bravery")):
        folder = workshop.artifacts / "maps" / maps[name]["fingerprint"]
        assert [f.name for f in (folder / "vectors").iterdir()] == [vector]
        carrying = SteeringVector.load(folder / "vectors" / vector / "transferred" / "layer-2")
        own = SteeringVector.load(folder / "vectors" / vector / "source" / "layer-1")
        torch.testing.assert_close(carrying.direction, load_map(folder)[0].weight @ own.direction)
    # what the one map of all text makes of the same vector was measured too
    _, *rows = workshop.one("measurements/*/french-*.jsonl").read_text().splitlines()
    assert "whole_corpus" in {row["condition"] for row in map(json.loads, rows)}
    with (workshop.folder / "run" / "csv" / "stories" / "metrics.csv").open() as lines:
        assert "stories-val/fvu" in next(csv.reader(lines))
    page = (workshop.report / "index.html").read_text()
    assert "one for all text" in page
    # a change of who carries what records nothing again, and fits what is missing alone
    before = workshop.files("maps") | workshop.files("activations")
    assert workshop.train("corpus.sources.questions.fit_map_for=[bravery]").code == 0
    assert workshop.files("maps") | workshop.files("activations") == before


def test_a_behaviour_that_is_added_gets_its_vectors_and_figures(workshop: Workshop) -> None:
    assert workshop.train("suite.names=[french]", "evaluate=true").code == 0
    states, mapping = workshop.files("activations"), workshop.one("maps/*/mapping.safetensors")
    before = mapping.stat().st_mtime_ns
    (alone,) = workshop.artifacts.glob("measurements/*/french-*.jsonl")
    done = workshop.train("suite.names=[french,bravery]", "evaluate=true")
    assert done.code == 0, done.told
    assert (workshop.files("activations"), mapping.stat().st_mtime_ns) == (states, before)
    for name in ("french", "bravery"):
        carrying = SteeringVector.load(mapping.parent / "vectors" / name / "transferred" / "layer-2")
        own = SteeringVector.load(mapping.parent / "vectors" / name / "source" / "layer-1")
        torch.testing.assert_close(carrying.direction, load_map(mapping.parent)[0].weight @ own.direction)
    found = json.loads((workshop.report / "results.json").read_text())
    assert (
        set(found["map"]["error_along"]) == set(found["map"]["cosine_with_native"]) == {"french", "bravery"}
    )
    # French has a rival now, whose vector is one of its nulls
    (beside,) = set(workshop.artifacts.glob("measurements/*/french-*.jsonl")) - {alone}
    assert ['"condition": "other"' in file.read_text() for file in (alone, beside)] == [False, True]


def test_some_of_a_suite_are_reported_as_they_stand_in_all_of_it(
    micro_run: MicroRun, workshop: Workshop
) -> None:
    shutil.copytree(micro_run.workshop.artifacts, workshop.artifacts)
    before = workshop.files("measurements")
    done = workshop.evaluate("evaluation.behaviours=[bravery]")
    assert done.code == 0, done.told
    assert workshop.files("measurements") == before
    one, other = (json.loads((w.report / "results.json").read_text()) for w in (micro_run.workshop, workshop))
    assert other["behaviours"] == [b for b in one["behaviours"] if b["name"] == "bravery"]


def test_a_corpus_that_is_other_than_its_name_says_is_told(workshop: Workshop) -> None:
    assert workshop.train().code == 0
    digest = workshop.one("corpora/*.json")
    digest.write_text(digest.read_text().replace('"digest": "', '"digest": "0'))
    done = workshop.train()
    assert done.code == 1
    assert "packed from other text" in done.line
    assert str(workshop.artifacts / "corpora") in done.line


def test_a_part_may_give_the_ends_of_its_documents(
    workshop: Workshop, tmp_path: Path, family_tokenizer: Any
) -> None:
    model_written_folder(tmp_path / "evals")
    asked = (
        f"+corpus.sources.asked={{kind: questions, path: {tmp_path / 'evals'}, tasks: [boldness], "
        "rows: last_tokens, repeat: 3, weight: 0.5}"
    )
    done = workshop.train(asked, "pool=4", "batches.rows=32", "evaluate=true")
    assert done.code == 0, done.told
    store = ActivationStore.open(workshop.one("activations/*/manifest.json").parent)
    assert store.plan.groups == ("asked", "questions", "requests", "stories")
    found = json.loads((workshop.report / "results.json").read_text())
    # what the Trainer streams and what the moments are of are the same rows
    (folds,) = (file.parent for file in workshop.artifacts.glob("moments/*/train-1.safetensors"))
    moments = {file.name: Moments.load(file) for file in folds.glob("*.safetensors")}
    assert found["map"]["rows"] == sum(m.count for name, m in moments.items() if name.startswith("train"))
    # of every question one row, three times: its answer's own token
    rows = [*store.stream("train", ["token", "group", "document", "position"])]
    token, group, document, position = (torch.cat([r[n] for r in rows]) for n in rows[0])
    ends = (document[1:] != document[:-1]) & (group[:-1] == 0)
    whole = answered_questions(
        Propensity(path=str(tmp_path / "evals"), tasks=("boldness",), chat=False), lambda: family_tokenizer
    )
    last = {family_tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text, _ in whole}
    assert set(token[:-1][ends].tolist()) == last
    part = Selection((1,), (2,), RowFilter(), 4, ("asked",), (PartRule("asked", "last_tokens", 3),))
    data = ActivationDataModule(store.folder, part)
    # of documents that begin within the block
    new = (document[1:] != document[:-1]) | (position[1:] < position[:-1])
    first = torch.where(new, torch.arange(1, len(document)), 0).cummax(0).values
    begun = torch.cat([torch.tensor([False]), position[first] > 0])
    kept = ends & begun[:-1]
    assert int(kept.sum()) > 5
    assert 3 * int(kept.sum()) - 3 <= data.rows["train"] <= 3 * int(kept.sum())
    # both answers to a question lie in one fold
    config = read_config(composed("train", *workshop.settings(asked, "pool=4", "batches.rows=32")))
    kin = Pipeline(config, Session(config, {"overrides": []}, "train")).kin
    assert set(Counter(kin.values()).values()) == {2}
    every = ActivationDataModule(
        store.folder, Selection((1,), (2,), RowFilter(), 4, (), (PartRule("asked", "last_tokens", 3),))
    )
    documents = torch.cat([batch["document"] for batch in every.iterate("train", batch_rows=512)])
    assert torch.isin(documents, torch.tensor(list(kin))).any()
    count = sum(name.startswith("train") for name in moments)
    in_fold = torch.bincount(shared_ids(documents, kin) % count, minlength=count)
    assert [moments[f"train-{i}.safetensors"].count for i in range(count)] == in_fold.tolist()
    assert in_fold.tolist() != torch.bincount(documents % count, minlength=count).tolist()
    # another repetition is another map on the same states
    stores = workshop.files("activations")
    again = workshop.train(asked.replace("repeat: 3", "repeat: 1"), "pool=4", "batches.rows=32")
    assert again.code == 0, again.told
    assert workshop.files("activations") == stores
    assert len([*workshop.artifacts.glob("maps/*/mapping.json")]) == 2


def test_a_behaviour_that_is_not_there_is_carried_by_nothing(workshop: Workshop) -> None:
    done = workshop.train("corpus.sources.questions.fit_map_for=[bravry]")
    assert done.code == 1
    assert (
        "corpus.sources.questions.fit_map_for holds 'bravry', which is not in the suite: bravery" in done.line
    )


class PowerCut(RuntimeError):
    pass


def test_a_fit_cut_off_between_epochs_ends_with_the_same_map(
    micro_run: MicroRun, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # three epochs of 8 steps; both find the recorded states
    whole, cut = Workshop(workshop.pair, workshop.folder / "whole"), workshop
    for each in (whole, cut):
        for kind in ("activations", "moments", "states"):
            shutil.copytree(micro_run.workshop.artifacts / kind, each.artifacts / kind)
    assert whole.train("fit.epochs=3").code == 0

    hook = FitHistory.on_train_batch_end

    def power_cut(self: FitHistory, trainer: Any, *rest: Any) -> None:
        hook(self, trainer, *rest)
        if trainer.current_epoch == 2 and trainer.global_step % 8 == 4:
            raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(FitHistory, "on_train_batch_end", power_cut)
        with pytest.raises(PowerCut):
            _raising(cut, "fit.epochs=3")
    assert not list(cut.artifacts.glob("maps/*/mapping.json"))
    assert list(cut.artifacts.glob("maps/*/checkpoints/last.ckpt"))

    steps: list[int] = []

    def counted(self: FitHistory, trainer: Any, *rest: Any) -> None:
        hook(self, trainer, *rest)
        steps.append(trainer.global_step)

    with monkeypatch.context() as patched:
        patched.setattr(FitHistory, "on_train_batch_end", counted)
        assert cut.train("fit.epochs=3").code == 0
    assert steps[0] == 2 * 8 + 1  # it went on after the second epoch, and did not begin anew

    (one, one_card), (other, other_card) = (load_map(w.one("maps/*")) for w in (whole, cut))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    assert one_card["training"] == other_card["training"]  # curves and probes have no gap
    assert one_card["steps"] == other_card["steps"] == 24


def test_an_evaluation_cut_off_goes_on_where_it_was(
    micro_run: MicroRun, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(micro_run.workshop.artifacts, workshop.artifacts)
    shutil.rmtree(workshop.artifacts / "measurements")
    measured: list[tuple[str, str]] = []
    whole = Journal.batch

    def cut_within_the_second(self: Journal, key: str, kind: Any, make: Any) -> Any:
        def watched() -> Any:
            name = self.file.name.split("-")[0] if self.file else ""
            measured.append((name, key))
            if [each for each, _ in measured].count("bravery") == 2:
                raise OSError("the power went")
            return make()

        return whole(self, key, kind, watched)

    monkeypatch.setattr(Journal, "batch", cut_within_the_second)
    stopped = workshop.evaluate()
    assert stopped.code == 1
    assert "the power went" in stopped.line
    before = measured.copy()
    first = {path: at for path, at in workshop.files("measurements").items() if path.suffix == ".jsonl"}
    assert [path.name.split("-")[0] for path in first] == ["french"]
    assert len([*workshop.artifacts.glob("measurements/*/bravery-*.journal")]) == 1
    done = workshop.evaluate()
    assert done.code == 0, done.told
    # nothing that was whole was measured again: what was cut off is the first to be
    assert measured[len(before)] == before[-1]
    assert not set(measured[len(before) :]) & set(before[:-1])
    assert not [*workshop.artifacts.glob("measurements/*/*.journal")]
    assert workshop.files("measurements").items() >= first.items()
    one, other = (json.loads((w.report / "results.json").read_text()) for w in (micro_run.workshop, workshop))
    assert one["behaviours"] == other["behaviours"]


def _raising(workshop: Workshop, *more: str) -> None:
    """A run whose error is a fault of ours, which Hydra would print and turn into an exit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HYDRA_FULL_ERROR", "1")
        workshop.train(*more)


def test_the_working_folder_stays_clean(micro_run: MicroRun) -> None:
    for name in ("train", "evaluate"):
        assert {p.name for p in (micro_run.workshop.folder / name).iterdir()} <= {".hydra", "csv", "wandb"}
    assert {p.name for p in Path(micro_run.workshop.folder).iterdir()} >= {"artifacts", "report"}
