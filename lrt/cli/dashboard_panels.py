"""The W&B workspace and report as data: which panel shows which key, and what to read from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lrt.evaluation.callbacks import DURING_TRAINING_FVU, REFERENCES, during_training
from lrt.evaluation.summary import HEADLINE

TITLE = "Steering vectors over learned maps"
STEP = "trainer/global_step"
LAYERS = ("layers/source", "layers/target")
TABLES = ("behaviours", "conditions", "strength_curves", "generations", "map_figures")
GRADIENT = (("#f4f4f1", 0), ("#2263c4", 100))  # of a heatmap, by percent


@dataclass(frozen=True)
class Logged:
    """What the runs of a project have logged.

    behaviours  That were evaluated.
    followed    Behaviours that were steered during training, each after the prefix of its map's keys.
    fits        The prefixes of the gradient fits' keys; empty for the whole-corpus map.
    losses      The names of the maps with a chart of their loss.
    """

    behaviours: tuple[str, ...]
    followed: tuple[tuple[str, str], ...]
    fits: tuple[str, ...]
    losses: tuple[str, ...]

    @classmethod
    def of(cls, keys: Iterable[str]) -> Logged:
        """Read off the keys of runs' summaries."""
        names = sorted(set(keys))

        def matches(pattern: str) -> list[re.Match[str]]:
            return [match for name in names if (match := re.fullmatch(pattern, name))]

        return cls(
            tuple(m[1] for m in matches(r"(.+)/transferred_effect")),
            tuple((m[1] or "", m[2]) for m in matches(r"(.+/)?during_training/(.+)/transferred")),
            tuple(m[1] or "" for m in matches(r"(.+/)?val/fvu")),
            tuple(m[1] for m in matches(r"loss/(.+)_table")),
        )


@dataclass(frozen=True)
class Panel:
    """One panel: its title, what to read from it, the keys it shows, and how W&B draws them.

    kind  `lines` over the first key, `bars`, `scatter` of two keys coloured by a third where there is one,
          `chart` of a logged line series, `table` or `image`.
    """

    kind: str
    title: str
    reading: str
    keys: tuple[str, ...]
    log_x: bool = False

    def built(self) -> Any:
        """The panel as wandb-workspaces has it."""
        import wandb_workspaces.reports.v2 as wr

        keys = list(self.keys)
        match self.kind:
            case "lines":
                return wr.LinePlot(title=self.title, x=keys[0], y=keys[1:], log_x=self.log_x)
            case "bars":
                return wr.BarPlot(title=self.title, metrics=keys)
            case "scatter":
                axes = [wr.Config(key) if key in LAYERS else wr.SummaryMetric(key) for key in keys]
                if len(axes) < 3:
                    return wr.ScatterPlot(title=self.title, x=axes[0], y=axes[1])
                gradient = [wr.GradientPoint(colour, percent) for colour, percent in GRADIENT]
                return wr.ScatterPlot(title=self.title, x=axes[0], y=axes[1], z=axes[2], gradient=gradient)
            case "chart":
                return wr.CustomChart(
                    query={"summaryTable": {"tableKey": keys[0]}},
                    chart_name="wandb/lineseries/v0",
                    chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
                    chart_strings={"title": self.title},
                )
            case "table":
                return wr.WeavePanelSummaryTable(table_name=keys[0], layout=wr.Layout(w=24, h=10))
            case "image":
                return wr.MediaBrowser(title=self.title, media_keys=keys)
        raise ValueError(f"no panel of kind {self.kind!r}")


@dataclass(frozen=True)
class Section:
    """Panels about one question."""

    name: str
    question: str
    panels: tuple[Panel, ...]


def sections(logged: Logged) -> tuple[Section, ...]:
    """The sections with panels for what was logged; those without any are omitted."""
    every = (
        Section(
            "Transfer",
            "How much of a behaviour does the transferred vector keep, and at what price?",
            _transfer(logged),
        ),
        Section("During training", "When does the effect saturate, and at which FVU?", _training(logged)),
        Section("Fit", "Is the map at its optimum?", _fit(logged)),
        Section("Strength", "How do score and strength relate, for each condition?", _strength(logged)),
        Section("Sweep", "Which layers give the largest effect?", _sweep(logged)),
        Section("Tables", "The numbers and the texts.", _tables(logged)),
    )
    return tuple(section for section in every if section.panels)


READINGS = {
    "transferred_effect": (
        "Transferred effect",
        "Change of the mean score in the intended direction under the transferred vector. Larger is better.",
    ),
    "native_effect": (
        "Native effect",
        "The same under the target's own vector: what a transferred vector can be expected to reach.",
    ),
    "transfer_ratio": (
        "Transfer ratio",
        "Transferred effect over native effect. A large ratio where the native effect is small means little.",
    ),
    "dose_ratio": (
        "Dose ratio",
        "Strength that the native vector needs for half of its effect, over what the transferred one needs.",
    ),
    "strongest_null": (
        "Strongest null",
        "Largest share of the native change that a vector without the behaviour has. Near zero is better.",
    ),
    "damage": (
        "Damage",
        "Relative rise of cross-entropy under the transferred vector at the chosen strength. Less is better.",
    ),
}
"""Title and reading of each main figure."""


def _transfer(logged: Logged) -> tuple[Panel, ...]:
    if not logged.behaviours:
        return ()
    bars = [
        Panel("bars", *READINGS[figure], tuple(f"{name}/{figure}" for name in logged.behaviours))
        for figure in HEADLINE
    ]
    scatters = [
        Panel(
            "scatter",
            f"Effect by FVU: {name}",
            "Each point is a run. Runs with equal FVU and different effects show what a loss does not.",
            ("map/fvu", f"{name}/transferred_effect"),
        )
        for name in logged.behaviours
    ]
    return (*bars, *scatters)


def _training(logged: Logged) -> tuple[Panel, ...]:
    panels: list[Panel] = []
    for prefix, name in logged.followed:
        conditions = ("transferred", *REFERENCES.values())
        panels += [
            Panel(
                "lines",
                f"Score during training: {name}",
                "The transferred vector's score at steps of the fit. It saturates where the line is level. "
                "Native is the level to reach, random and unsteered those to leave.",
                (STEP, *(f"{prefix}{during_training(name, each)}" for each in conditions)),
                log_x=True,
            ),
            Panel(
                "chart",
                f"Score by FVU: {name}",
                "The same scores over the FVU that the map had then. A level line to the left means that a "
                "better fit adds nothing.",
                (f"saturation/{name}_table",),
            ),
        ]
    fvus = dict.fromkeys(f"{prefix}{DURING_TRAINING_FVU}" for prefix, _ in logged.followed)
    if fvus:
        reading = "FVU on validation documents at the steps where the target was steered."
        panels.append(Panel("lines", "FVU at the evaluated steps", reading, (STEP, *fvus), log_x=True))
    return tuple(panels)


def _fit(logged: Logged) -> tuple[Panel, ...]:
    lines = [
        Panel(
            "lines",
            f"FVU: {prefix.rstrip('/') or 'whole corpus'}",
            "Training and validation. A widening gap is overfitting.",
            (STEP, f"{prefix}train/fvu", f"{prefix}val/fvu"),
        )
        for prefix in logged.fits
    ]
    charts = [
        Panel(
            "chart",
            f"Loss against the optimum: {name}",
            "Validation FVU ends at the level line of the reference ridge where the fit has converged.",
            (f"loss/{name}_table",),
        )
        for name in logged.losses
    ]
    return (*lines, *charts)


def _strength(logged: Logged) -> tuple[Panel, ...]:
    panels: list[Panel] = []
    for name in logged.behaviours:
        panels += [
            Panel(
                "chart",
                f"Strength curve: {name}",
                "Mean score over strength. Transferred beside native is transfer; random beside unsteered is "
                "a fair null.",
                (f"strength/{name}_table",),
            ),
            Panel(
                "image",
                f"Strength curve with intervals: {name}",
                "The same with 95% bands, the chosen strength, and damage below.",
                (f"figure/strength/{name}",),
            ),
        ]
    return tuple(panels)


def _sweep(logged: Logged) -> tuple[Panel, ...]:
    return tuple(
        Panel(
            "scatter",
            f"Effect by layers: {name}",
            "Each point is a job at its source and target layer; the darker, the larger the effect.",
            (*LAYERS, f"{name}/transferred_effect"),
        )
        for name in logged.behaviours
    )


def _tables(logged: Logged) -> tuple[Panel, ...]:
    readings = {
        "behaviours": "One row a behaviour: choice, mean scores, main figures, intervals, notes.",
        "conditions": "One row a condition: share of the native change, dose ratio, damage.",
        "strength_curves": "One row a point of a curve, with its interval.",
        "generations": "Generated texts by prompt, condition and strength, with their scores.",
        "map_figures": "Every figure of every map, along each vector too.",
    }
    wanted = TABLES if logged.behaviours else ("map_figures",) if logged.fits else ()
    return tuple(Panel("table", f"Table: {name}", readings[name], (name,)) for name in wanted)


def workspace(entity: str, project: str, logged: Logged) -> Any:
    """The workspace, not saved."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[
            ws.Section(
                name=section.name,
                panels=[panel.built() for panel in section.panels],
                is_open=section.name in ("Transfer", "During training"),
            )
            for section in sections(logged)
        ],
    )


def report(entity: str, project: str, logged: Logged) -> Any:
    """The report, not saved: what to read from each panel, and below it the panels of the section."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for section in sections(logged):
        readings = wr.UnorderedList([f"{panel.title}: {panel.reading}" for panel in section.panels])
        # a grid without runs of its own shows those of the report's project
        grid = wr.PanelGrid(panels=[panel.built() for panel in section.panels])
        blocks += [wr.H1(section.name), wr.P(section.question), readings, grid]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")
