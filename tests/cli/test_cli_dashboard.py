"""The W&B workspace and report as code: what they hold, and that a second call updates them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from lrt.cli import dashboard as module
from lrt.cli import dashboard_panels as panels
from lrt.cli.app import app
from lrt.cli.dashboard_panels import HEADLINE, READINGS, Logged, sections

KEYS = (
    *(f"{name}/{figure}" for name in ("french", "dogs") for figure in HEADLINE),
    *(f"stories/during_training/french/{name}" for name in ("transferred", "native", "random", "unsteered")),
    "stories/during_training/fvu",
    "val/fvu",
    "stories/val/fvu",
    "loss/stories_table",
)
LOGGED = Logged(("dogs", "french"), (("stories/", "french"),), ("stories/", ""), ("stories",))


def test_what_was_logged_is_read_off_the_keys() -> None:
    assert Logged.of(KEYS) == LOGGED
    assert sections(Logged.of(["accuracy", "loss"])) == ()


def spec(built: Any) -> Any:
    """As W&B gets it, without the ids that it draws."""

    def bare(data: Any) -> Any:
        if isinstance(data, dict):
            return {k: bare(v) for k, v in data.items() if k not in ("__id__", "id", "name") or k == "name"}
        return [bare(each) for each in data] if isinstance(data, list) else data

    model = built._to_model()
    return bare(json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True)))


def test_the_workspace_has_the_panels_of_the_description() -> None:
    built = panels.workspace("me", "lrt", LOGGED)
    assert (built.entity, built.project) == ("me", "lrt")
    described = sections(LOGGED)
    assert [section.name for section in built.sections] == [section.name for section in described]
    for section, wanted in zip(built.sections, described, strict=True):
        assert len(section.panels) == len(wanted.panels)
        for panel, description in zip(section.panels, wanted.panels, strict=True):
            text = json.dumps(json.loads(panel._to_model().model_dump_json(by_alias=True)))
            for key in description.keys:
                assert key in text, description.title
    assert spec(built) == spec(panels.workspace("me", "lrt", LOGGED))


def test_a_score_during_training_stands_beside_native_and_random() -> None:
    built = panels.workspace("me", "lrt", LOGGED)
    (during,) = [section for section in built.sections if section.name == "During training"]
    line = during.panels[0]
    assert line.x == "trainer/global_step"
    wanted = [
        f"stories/during_training/french/{name}" for name in ("transferred", "unsteered", "native", "random")
    ]
    assert line.y == wanted
    assert line.log_x


def test_the_report_says_what_to_read_from_each_panel() -> None:
    text = json.dumps(spec(panels.report("me", "lrt", LOGGED)), ensure_ascii=False)
    for section in sections(LOGGED):
        for panel in section.panels:
            assert panel.title in text
            assert panel.reading in text
    assert {*READINGS} == {*HEADLINE}


class Server:
    """W&B's, as far as it is asked."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}

    def runs(self, path: str, order: str) -> list[Any]:
        assert (path, order) == ("me/lrt", "-created_at")
        return [SimpleNamespace(summary=dict.fromkeys(KEYS))]

    def reports(self, _: str) -> list[Any]:
        return [
            SimpleNamespace(id=id_, display_name=view["displayName"])
            for id_, view in self.views.items()
            if view["type"] == "runs"
        ]

    def projects(self, _: str) -> list[Any]:
        return [SimpleNamespace(name="lrt")]

    def upsert(self, view: dict[str, Any]) -> Any:
        id_ = view.get("id") or f"view{len(self.views)}"
        self.views[id_] = view
        return {"upsertView": {"view": {**view, "id": id_}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    import wandb
    import wandb_workspaces.reports.v2.interface as reports
    from wandb_workspaces.workspaces import interface, internal

    server = Server()
    monkeypatch.setattr(wandb, "Api", lambda: server)

    def upsert_workspace(view: Any) -> Any:
        return server.upsert(
            {
                "id": view.id,
                "name": view.name,
                "displayName": view.display_name,
                "type": "project-view",
                "spec": view.spec.model_dump_json(by_alias=True, exclude_none=True),
            }
        )

    def find_workspace(_: str, project: str, name: str) -> Any:
        for id_, view in server.views.items():
            if view["name"] == f"nw-{name}-v":
                return {"id": id_, "displayName": view["displayName"], "spec": view["spec"]}
        raise ValueError(f"Workspace `{name}` not found in project `{project}`")

    def execute(_: Any, __: Any, variables: dict[str, Any]) -> Any:
        named = {"name": variables["projectName"], "entityName": variables["entityName"]}
        return server.upsert({**variables, "project": named})

    monkeypatch.setattr(internal, "upsert_view2", upsert_workspace)
    monkeypatch.setattr(internal, "get_view_dict", find_workspace, raising=False)
    monkeypatch.setattr(interface, "get_app_url", lambda _: "https://wandb.ai")
    monkeypatch.setattr(reports, "get_app_url", lambda _: "https://wandb.ai")
    monkeypatch.setattr(reports, "_get_api", lambda: server)
    monkeypatch.setattr(reports, "execute_graphql", execute)
    return server


def test_a_second_call_updates_what_the_first_made(server: Server) -> None:
    first = CliRunner().invoke(app, ["dashboard", "me/lrt"])
    assert first.exit_code == 0, first.output
    before = {id_: view["type"] for id_, view in server.views.items()}
    assert sorted(before.values()) == ["project-view", "runs"]
    again = CliRunner().invoke(app, ["dashboard", "me/lrt"])
    assert again.exit_code == 0, again.output
    assert {id_: view["type"] for id_, view in server.views.items()} == before
    for word in ("workspace: https://wandb.ai/me/lrt", "report: https://wandb.ai/me/lrt/reports"):
        assert word in again.output


@pytest.mark.parametrize("project", ["lrt", "a/b/c", "/lrt", "me/"])
def test_a_project_without_its_entity_is_refused(project: str) -> None:
    with pytest.raises(module.InvalidValue, match="ENTITY/PROJECT"):
        module.dashboard(project)


def test_a_project_without_runs_of_lrt_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "runs", lambda *_, **__: [SimpleNamespace(summary={"accuracy": 1.0})])
    with pytest.raises(module.InvalidValue, match="no run"):
        module.dashboard("me/lrt")
    assert server.views == {}


def test_what_wandb_raises_is_one_plain_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuses() -> Any:
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "Api", refuses)
    with pytest.raises(module.DashboardFailed, match="No API key"):
        module.dashboard("me/lrt")
