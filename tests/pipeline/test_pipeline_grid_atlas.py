"""Every pair of a grid of layers from one pass, without a store."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pydantic import ValidationError
from stages import Stages, corpus

from lrt.config import ConfigError
from lrt.errors import UserError
from lrt.pipeline import LayerPlan, contrasts_of, grid_atlas
from lrt.pipeline.grid_atlas import AtlasSettings, GridAtlas, grid_layers, spread
from lrt.pipeline.states import StatesOnTheFly
from lrt.pipeline.vectors import prompts_digests

ALL = AtlasSettings(source="all", target="all", memory_gb=1.0, checkpoint_every=4)


def grid(stages: Stages, settings: AtlasSettings = ALL) -> GridAtlas:
    """The atlas of these stages' corpus and models, as `make atlas` builds it."""
    layers = grid_layers(settings, stages.pair)
    flying = stages.but(recording=replace(stages.recording, states="none"))
    object.__setattr__(flying, "plan", LayerPlan(layers, layers, frozenset()))
    assert isinstance(flying.states, StatesOnTheFly)
    digests = prompts_digests(contrasts_of(flying.suite))
    return GridAtlas(settings, flying.pair, flying.states, flying.rows, flying.recording, digests)


def cells_of(stages: Stages, settings: AtlasSettings = ALL) -> dict[str, Any]:
    return grid(stages, settings).cells(stages.vectors.states)


def test_the_cells_are_those_of_recorded_states(shared: Stages) -> None:
    passed = cells_of(shared)
    recorded = shared.but(analysis__atlas=True)
    recorded.fitted()
    stored = recorded.analyses.results()["atlas"]
    assert len(passed["atlas"]) == len(stored) == 12
    for one, other in zip(passed["atlas"], stored, strict=True):
        assert one["fvu"] == pytest.approx(other["fvu"], rel=1e-2)
        assert one["error_along"] == pytest.approx(other["error_along"], rel=2e-2)
    assert passed["rows"]["train"] == shared.rows.of(shared.plan.candidates).train_moments.count
    assert all(not counts for counts in passed["non_finite"].values())


def test_blocks_of_an_image_are_found(oracle: Stages) -> None:
    cells = cells_of(oracle)["atlas"]
    exact = {(cell["source_layer"], cell["target_layer"]) for cell in cells if cell["fvu"] < 1e-4}
    assert exact == {(0, 0), (1, 1), (2, 2)}


def test_sums_and_cells_are_made_once(shared: Stages) -> None:
    once = cells_of(shared)
    before = shared.files("atlas")
    with mock.patch("lrt.pipeline.grid_atlas.paired_rows", side_effect=AssertionError("run again")):
        assert cells_of(shared) == once
        sums = grid(shared).sums()
    assert {split: each.moments.count for split, each in sums.items()} == once["rows"]
    assert shared.files("atlas") == before
    grid(shared, replace(ALL, memory_gb=1e-9)).check()  # what is made needs no memory


@pytest.mark.slow
def test_stopped_sums_go_on_from_their_checkpoint(empty: Stages, tmp_path: Path) -> None:
    stages = empty.but(recording__batch_tokens=256)
    whole = cells_of(stages.but(folder=tmp_path / "whole"))
    real = grid_atlas.paired_rows
    seen: list[int] = []

    def stops(*arguments: Any, start: int, **how: Any) -> Any:
        seen.append(start)
        for number, rows in enumerate(real(*arguments, start=start, **how)):
            if len(seen) == 1 and number == 5:
                raise KeyboardInterrupt
            yield rows

    with mock.patch.object(grid_atlas, "paired_rows", stops):
        with pytest.raises(KeyboardInterrupt):
            cells_of(stages)
        assert cells_of(stages) == whole
    assert seen[0] == 0
    assert seen[1] >= ALL.checkpoint_every
    assert not list(stages.folder.glob("atlas/*.partial"))


def test_states_that_are_not_finite_are_excluded_and_counted(
    empty: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    stages = empty.but(recording__non_finite="exclude", corpus=corpus(train=1024))
    block = stages.pair.source.blocks[2]

    def spoil(_module: Any, _inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        spoilt = states.clone()
        spoilt[..., 5, 0] = float("inf")
        return (spoilt, *output[1:]) if isinstance(output, tuple) else spoilt

    vectors = stages.vectors.states
    handle = block.register_forward_hook(spoil)
    try:
        cells = grid(stages).cells(vectors)
    finally:
        handle.remove()
    assert cells["non_finite"]["train"]["source.2"] > 0
    assert "source.1" not in cells["non_finite"]["train"]
    assert any("source layer 2" in record.getMessage() for record in caplog.records)


def test_grids_that_do_not_fit(empty: Stages) -> None:
    with pytest.raises(ConfigError, match=r"atlas\.memory_gb"):
        grid(empty, replace(ALL, memory_gb=1e-6)).check()
    with (
        mock.patch("shutil.disk_usage", return_value=mock.Mock(free=1000)),
        pytest.raises(ConfigError, match=r"paths\.artifacts"),
    ):
        grid(empty).check()
    grid(empty).check()


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [("all", (0, 1, 2, 3)), (1, (2,)), (2, (0, 3)), (3, (0, 2, 3)), ((3, 0.25), (1, 3))],
)
def test_layers_are_spread_evenly(shared: Stages, wanted: Any, layers: tuple[int, ...]) -> None:
    assert spread(wanted, shared.pair.models["target"], "atlas.target") == layers


@pytest.mark.parametrize("wanted", [5, (4,), (1, 1)])
def test_layers_that_are_not_there(shared: Stages, wanted: Any) -> None:
    with pytest.raises(UserError, match=r"atlas\.target"):
        grid_layers(replace(ALL, target=wanted), shared.pair)


@pytest.mark.parametrize(
    "setting",
    [{"source": "some"}, {"source": 0}, {"source": ()}, {"memory_gb": 0.0}, {"checkpoint_every": 0}],
)
def test_settings_that_cannot_be(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AtlasSettings(
            **{"source": "all", "target": "all", "memory_gb": 1.0, "checkpoint_every": 4, **setting}
        )
