"""Each default is stated once: in a dataclass of the science folders, or in conf/."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from config.composing import read

from lrt.cli.composing import CONF
from lrt.cli.record import RecordSettings
from lrt.config import corpus, schema, sections
from lrt.config.defaults import LEFT_OUT, NODES, defaults_of
from lrt.mapping import FitSpec
from lrt.pipeline.grid_atlas import AtlasSettings

# a suite's parts, and the kinds of suites and fits, bring their defaults in by the node of their name
USES = "/defaults/"


def stated(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text()) or {}


def nodes_of(file: Path) -> dict[str, str]:
    """The nodes that a file brings in, by section (empty for the file's own)."""
    brought = [each for each in stated(file).get("defaults", []) if isinstance(each, str)]
    pairs = [each.removeprefix(USES).split("@") for each in brought if each.startswith(USES)]
    return {"" if section == "_here_" else section: node for node, section in pairs}


@pytest.mark.parametrize(
    "file", [f for f in sorted(CONF.rglob("*.yaml")) if nodes_of(f)], ids=lambda f: f.stem
)
def test_yaml_states_no_default_of_a_dataclass_again(file: Path) -> None:
    for section, node in nodes_of(file).items():
        values = stated(file)
        for part in filter(None, section.split(".")):
            values = values.get(part, {})
        again = {name for name, value in defaults_of(node).items() if values.get(name, MISSING) == value}
        assert not again, f"{section or file.stem} states the default of {NODES[node].__name__} again"


@pytest.mark.parametrize("node", NODES)
def test_a_node_holds_every_default_of_its_dataclass(node: str) -> None:
    with_default = {
        each.name
        for each in fields(NODES[node])
        if each.default is not MISSING or each.default_factory is not MISSING
    }
    assert set(defaults_of(node)) == with_default - set(LEFT_OUT.get(node, ()))


def test_a_config_that_changes_nothing_reads_as_the_dataclass_itself() -> None:
    config = read()
    assert config.filter == NODES["filter"]()
    assert config.evaluation.grid == NODES["grid"]()
    assert config.suite == NODES["storybook_suite"]()
    assert read(options=("fit=closed_form",)).fit == NODES["closed_form"]()
    propensity = read(options=("suite=propensity",)).suite
    assert propensity == NODES["propensity_suite"]()
    fit = read().fit
    assert isinstance(fit, FitSpec)
    assert (fit.optimizer, fit.schedule, fit.whitening) == tuple(
        defaults_of("gradient")[name] for name in ("optimizer", "schedule", "whitening")
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(
            each
            for each in vars(sections).values()
            if is_dataclass(each) and each.__module__ == sections.__name__
        ),
        schema.Config,
        corpus.Corpus,
        corpus.Tokens,
        AtlasSettings,
        RecordSettings,
    ],
    ids=lambda kind: kind.__name__,
)
def test_what_only_the_pipeline_knows_has_its_defaults_in_yaml(kind: type) -> None:
    assert [
        f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING
    ] == []  # type: ignore[arg-type]
