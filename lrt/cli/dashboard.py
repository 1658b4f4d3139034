"""`lrt dashboard`: the W&B workspace and report of a project, created or brought up to date."""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated, Any

import typer

from lrt.errors import InvalidValue, UserError

VIEW = "lrtdashboard"
"""The workspace's name in its address, by which a later call finds it again."""

RUNS = 50  # the newest, whose keys the panels are for


class DashboardFailed(UserError):
    """W&B's server cannot be reached, or refuses; the message is its own."""


def dashboard(
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="Of W&B.")],
) -> None:
    """Create or update the W&B workspace and report of a project (docs/dashboards.md).

    They show the behaviours and maps that the project's newest 50 runs have logged. Needs
    `pip install 'lrt[dashboard]'` and a W&B key.

    \b
    Example:
      lrt dashboard my-team/lrt
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise InvalidValue(f"{project}: expected ENTITY/PROJECT, as my-team/lrt")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("lrt dashboard needs wandb-workspaces: pip install 'lrt[dashboard]'")
    import wandb

    try:
        for what, url in save(*project.split("/")).items():
            typer.echo(f"{what}: {url}")
    except (wandb.Error, OSError) as error:
        raise DashboardFailed(f"W&B, {project}: {error}") from error


def save(entity: str, project: str) -> dict[str, str]:
    """Saves both to W&B; their addresses. Raises InvalidValue for a project without runs, wandb.Error."""
    import wandb

    from lrt.cli import dashboard_panels as panels

    api = wandb.Api()
    keys: set[str] = set()
    try:
        for run, _ in zip(api.runs(f"{entity}/{project}", order="-created_at"), range(RUNS), strict=False):
            keys |= {str(key) for key in run.summary.keys()}  # noqa: SIM118  (no mapping, but has keys)
    except ValueError as error:  # as it says that there is no such project
        raise InvalidValue(f"{entity}/{project}: {error}") from error
    logged = panels.Logged.of(keys)
    if not panels.sections(logged):
        raise InvalidValue(
            f"{entity}/{project} has no run of lrt among its newest {RUNS}: log one first "
            "(lrt train logging.mode=online evaluate=true, or wandb sync)"
        )
    workspace = panels.workspace(entity, project, logged)
    workspace = _in_place_of_the_last(workspace).save()
    report = panels.report(entity, project, logged)
    for known in api.reports(f"{entity}/{project}"):
        if known.display_name == panels.TITLE:
            report.id = known.id
            break
    report.save()
    return {"workspace": str(workspace.url), "report": str(report.url)}


def _in_place_of_the_last(workspace: Any) -> Any:
    """The workspace with the identity of the one that an earlier call has saved, where there is one."""
    import wandb_workspaces.workspaces as ws

    address = f"https://wandb.ai/{workspace.entity}/{workspace.project}?nw={VIEW}"
    try:
        last = ws.Workspace.from_url(address)
    except ValueError:  # W&B's way to say that there is none
        workspace._internal_name = f"nw-{VIEW}-v"
        return workspace
    last.name, last.sections = workspace.name, workspace.sections
    return last
