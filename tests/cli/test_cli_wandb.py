"""W&B: an offline run read back with W&B's own reader, and what happens where W&B fails."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from running import Workshop, run_apart
from whole_run import WholeRun

from lrt.cli import tracking as module
from lrt.cli.dashboard_panels import Logged, sections
from lrt.cli.run_identity import RunIdentity
from lrt.cli.tracking import GuardedWandb, Tracking
from lrt.config import Logging
from lrt.evaluation.summary import HEADLINE


def inspected(folder: Path, *options: str) -> str:
    """W&B's own reader of a run's transaction log."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *options, "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"WANDB_ERROR_REPORTING": "false", "HOME": str(folder)},
        timeout=60,
    )
    return done.stdout


@pytest.fixture(scope="module")
def records(whole_run: WholeRun) -> list[Any]:
    return [json.loads(line) for line in inspected(whole_run.folder).splitlines()]


@pytest.fixture(scope="module")
def summary(whole_run: WholeRun) -> Any:
    return json.loads(inspected(whole_run.folder, "--summary"))


def test_the_run_holds_the_resolved_config_and_ended_well(summary: Any, whole_run: WholeRun) -> None:
    assert "finished" in json.dumps(summary)
    config = json.dumps(summary["config"])
    assert str(whole_run.workshop.pair / "little") in config
    assert str(whole_run.workshop.artifacts) in config  # resolved, interpolations too
    assert "${" not in config


def test_the_config_is_searchable(summary: Any) -> None:
    config = summary["config"]
    assert (config["map/kind"], config["layers/source"], config["seed"]) == ("full", 1, 0)
    assert all(value is None or isinstance(value, str | int | float) for value in config.values())
    assert not any("." in key for key in config)


def test_name_group_and_tags(summary: Any, whole_run: WholeRun) -> None:
    pair = f"{whole_run.workshop.pair / 'little'} -> {whole_run.workshop.pair / 'big'}"
    assert summary["name"] == f"{pair}, layers 1 to 2, full map, seed 0"[:128]
    assert summary["project"] == "tried"
    assert summary["tags"] == ["first", "second", f"pair={pair}"[:64], "map=full", "suite=storybook"]


def test_what_is_measured_while_the_map_is_trained(records: list[Any]) -> None:
    rows = [
        row for each in records if "during_training/fvu" in (row := each.get("history", {}).get("item", {}))
    ]
    steps = [row["trainer/global_step"] for row in rows]
    assert len(steps) >= 3
    assert steps == sorted(set(steps))
    for row in rows:
        assert {
            f"during_training/french/{name}" for name in ("transferred", "native", "random", "unsteered")
        } <= {*row}


def test_every_figure_has_one_plain_name_and_a_direction(
    summary: Any, whole_run: WholeRun, records: list[Any]
) -> None:
    values = summary["summary"]
    results = json.loads((whole_run.workshop.report / "results.json").read_text())
    better = {
        each["metric"].get("name"): [*each["metric"].get("summary", {})]
        for each in records
        if "metric" in each
    }
    for behaviour in results["behaviours"]:
        for figure, value in behaviour["headline"].items():
            key = f"{behaviour['name']}/{figure}"
            assert values.get(key) == (value if value is None else pytest.approx(value))
            assert better[key] == [HEADLINE[figure]]
    for what, value in results["provenance"]["fingerprints"].items():
        assert values[f"fingerprint/{what}"] == value
    assert values["map/fvu"] == pytest.approx(results["map"]["fvu"])
    assert better["map/fvu"] == better["val/fvu"] == ["min"]
    assert not any(key.startswith("test/") for key in values)  # they are the map's


def test_tables_have_numbers_as_numbers(whole_run: WholeRun) -> None:
    (media,) = whole_run.folder.glob("wandb/offline-run-*/files/media")

    def table(name: str) -> list[dict[str, Any]]:
        (file,) = (media / "table").glob(f"{name}_*.json")
        held = json.loads(file.read_text())
        return [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]

    results = json.loads((whole_run.workshop.report / "results.json").read_text())
    behaviours = table("behaviours")
    for row, behaviour in zip(behaviours, results["behaviours"], strict=True):
        assert row["behaviour"] == behaviour["name"]
        assert row["native"] == pytest.approx(behaviour["native"])
        assert row["transferred_effect"] == pytest.approx(behaviour["headline"]["transferred_effect"])
    curves = table("strength_curves")
    assert all(isinstance(row["score"], float) for row in curves)
    texts = table("generations")
    assert {row["behaviour"] for row in texts} == {"french"}
    assert {"unsteered", "native", "transferred", "plain prompt"} <= {row["condition"] for row in texts}
    assert all(row["prompt"] and isinstance(row["score"], float | None) for row in texts)
    figures = table("map_figures")
    assert {"fvu", "error_along/french"} <= {row["figure"].partition("@")[0] for row in figures}


def test_charts_and_figures(whole_run: WholeRun, records: list[Any]) -> None:
    text = json.dumps(records)
    for chart in ("strength/french", "strength/bravery", "loss/whole corpus", "saturation/french"):
        assert f"{chart}_table" in text
    (media,) = whole_run.folder.glob("wandb/offline-run-*/files/media")
    images = list((media / "images" / "figure" / "strength").glob("*.png"))
    assert {image.name.split("_")[0] for image in images} == {"french", "bravery"}


def test_artifacts_name_what_they_were_made_of(whole_run: WholeRun, records: list[Any]) -> None:
    kinds = ("store", "map", "vectors", "report")
    made = {
        each["artifact"]["type"]: each["artifact"]
        for each in records
        if each.get("artifact", {}).get("type") in kinds
    }
    assert tuple(made) == kinds
    parents = {kind: json.loads(each["metadata"])["made_of"] for kind, each in made.items()}
    assert parents["store"] == []
    for kind, parent in itertools.pairwise(kinds):
        assert parents[parent] == [made[kind]["name"]]
    fingerprints = json.loads((whole_run.workshop.report / "results.json").read_text())["provenance"]
    assert fingerprints["fingerprints"]["map"] in made["map"]["aliases"]
    store = {entry["path"]: entry for entry in made["store"]["manifest"]["contents"]}
    shards = {path: entry for path, entry in store.items() if path.endswith(".safetensors")}
    assert shards
    assert all("local_path" not in entry and entry["ref"].startswith("file://") for entry in shards.values())
    assert "local_path" in store["manifest.json"]  # with the shards' checksums
    assert "sums.safetensors" not in {entry["path"] for entry in made["map"]["manifest"]["contents"]}


def test_a_run_holds_every_key_that_a_panel_names(summary: Any, whole_run: WholeRun) -> None:
    values, config = summary["summary"], summary["config"]
    logged = Logged.of(values)
    assert logged.behaviours == ("bravery", "french")
    assert logged.followed == (("", "french"),)
    named = {key for section in sections(logged) for panel in section.panels for key in panel.keys}
    results = json.loads((whole_run.workshop.report / "results.json").read_text())
    undefined = {
        f"{b['name']}/{k}" for b in results["behaviours"] for k, v in b["headline"].items() if v is None
    }
    assert named - {*values, *config} == undefined


def test_an_offline_run_asks_for_no_account(whole_run: WholeRun) -> None:
    assert "wandb:" not in whole_run.ran.output


# -- what fails --------------------------------------------------------------------------------------


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[Tracking]:
    yield tracking_of(tmp_path, "online")
    wandb.finish()


def tracking_of(folder: Path, mode: Any) -> Tracking:
    return Tracking(Logging(mode, "lrt", None, None, True), str(folder), "train", identity_of(("tag",)))


def identity_of(tags: tuple[str, ...]) -> RunIdentity:
    return RunIdentity("name", "group", tags, {"a": 1}, {})


def test_without_a_key_it_is_written_offline_and_the_log_says_so(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name, value in (("HOME", str(tmp_path)), ("NETRC", str(tmp_path / "n")), ("WANDB_API_KEY", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    modes: list[str] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: modes.append(settings["mode"]))
    tracking.open_wandb()
    assert modes == ["offline"]
    assert "logging.mode=online" in caplog.text
    assert "wandb sync" in caplog.text


def test_with_a_key_it_is_written_online_and_disabled_opens_nothing(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[dict[str, Any]] = []
    run = SimpleNamespace(define_metric=lambda *_, **__: None)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", lambda **settings: opened.append(settings) or run)
    tracking_of(tmp_path, "disabled").open_wandb()
    assert opened == []
    tracking.open_wandb("id")
    assert (opened[0]["mode"], opened[0]["id"], opened[0]["resume"]) == ("online", "id", "allow")
    assert (opened[0]["group"], opened[0]["tags"], opened[0]["config"]) == ("group", ("tag",), {"a": 1})
    called: list[Any] = []
    tracking.wandb(called.append)
    assert called == [run]


def test_wandbs_variables_count_where_the_config_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    variables = {"TAGS": "one,two", "JOB_TYPE": "night", "DIR": str(tmp_path / "mine")}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # which has read the variables once in this process
    seen = []
    for tags in ((), ("tag",)):
        tracking = Tracking(
            Logging("offline", "", None, None, True), str(tmp_path), "train", identity_of(tags)
        )
        tracking.open_wandb()
        tracking.wandb(lambda run: seen.append((run.tags, run.job_type, run.dir, run.project)))
        tracking.close(None)
    assert [(each[0], each[1], each[3]) for each in seen] == [
        (("one", "two"), "night", "lrt"),
        (("tag", "one", "two"), "night", "lrt"),
    ]
    assert all(Path(folder).is_relative_to(tmp_path / "mine") for _, _, folder, _ in seen)


def test_errors_of_wandb_are_logged_and_never_raised(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("login", "init", "finish"):
        monkeypatch.setattr(wandb, name, fails)
    tracking.open_wandb()
    tracking.wandb(lambda _: pytest.fail("there is no run"))
    tracking.close(None)
    tracking._run = SimpleNamespace(summary={}, config=SimpleNamespace(update=fails), log=fails)
    tracking.wandb(fails)
    for method, arguments in (
        ("log_metrics", ({"a": 1.0}, 1)),
        ("finalize", ("ok",)),
    ):
        monkeypatch.setattr(module.WandbLogger, method, fails)
        getattr(GuardedWandb.__new__(GuardedWandb), method)(*arguments)
    assert caplog.text.count("No space left on device") >= 6
    assert "goes on with the local record" in caplog.text
    monkeypatch.undo()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("broken")])
def test_a_server_that_stops_answering_is_not_waited_for(
    error: BaseException | None,
    tracking: Tracking,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answered, codes = threading.Event(), []
    monkeypatch.setattr(module, "ENDING", 0.2)
    monkeypatch.setattr(module, "STOPPING", 0.1)
    monkeypatch.setattr(wandb, "finish", lambda exit_code: codes.append(exit_code) or answered.wait(60))
    tracking.close(error)
    answered.set()
    monkeypatch.undo()
    assert codes == [0 if error is None else 1]
    assert ("0.1 s" if isinstance(error, KeyboardInterrupt) else "0.2 s") in caplog.text
    assert "wandb sync" in caplog.text


@pytest.mark.slow
def test_a_run_whose_server_cannot_be_reached_is_whole_without_it(workshop: Workshop) -> None:
    home = workshop.folder / "home"
    home.mkdir()
    ran = run_apart(
        "train",
        *workshop.settings("evaluate=true", "corpus.tokens.train=4096", logging="online"),
        WANDB_BASE_URL="http://127.0.0.1:9",  # nothing listens on the discard port
        WANDB_API_KEY="0" * 40,
        WANDB_INIT_TIMEOUT="5",
        HOME=str(home),
    )
    assert ran.code == 0, ran.output
    assert "goes on with the local record" in ran.line
    assert (workshop.folder / "run" / "csv" / "metrics.csv").read_text().count("\n") > 2
    assert (workshop.report / "results.json").is_file()
