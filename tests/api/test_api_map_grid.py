"""Maps of a grid of layers, on a pair whose target has one block more in front."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from oracle_pair import GRID_SETTINGS, SCALE, Oracle
from pretend_devices import pretend_cuda

import lrt
from lrt.api.layer_spec import blocks_of
from lrt.api.map_grid import best_first
from lrt.api.vector_forecast import Candidate, VectorForecast
from lrt.mapping import MapForeign, MapMissing, load_map, save_pair_maps
from lrt.models import LanguageModel
from lrt.models.hardware import CPU

Prompts = tuple[list[str], list[str]]
SOURCE, TARGET = (0, 1, 2), (1, 2, 3)  # "auto" of 3 and of 4 blocks


def vector_of(lm: LanguageModel, prompts: Prompts, layer: int) -> lrt.SteeringVector:
    return lrt.extract_vector(lm, *prompts, layer=layer, behaviour="french")


@pytest.mark.parametrize("layer", SOURCE)
def test_a_vector_of_any_layer_finds_the_planted_layer(
    oracle: Oracle, later: LanguageModel, grid: lrt.MapGrid, prompts: Prompts, layer: int
) -> None:
    assert (grid.source_layers, grid.target_layers) == (SOURCE, TARGET)
    vector, native = vector_of(oracle.source, prompts, layer), vector_of(later, prompts, layer + 1)
    result = grid.transfer(vector)
    assert (result.vector.layer, result.vector.model) == (layer + 1, later.spec.name)
    torch.testing.assert_close(result.vector.direction, native.direction, rtol=1e-3, atol=1e-3)
    assert result.vector.residual_norm == native.residual_norm
    assert result.vector.map is not None
    assert result.vector.map["from_layers"] == [layer]
    assert result.forecast.warnings == ()
    assert result.forecast.signal == pytest.approx(SCALE * vector.norm, rel=1e-3)


def test_the_forecast_lists_every_target_layer_best_first(
    oracle: Oracle, grid: lrt.MapGrid, prompts: Prompts
) -> None:
    vector = vector_of(oracle.source, prompts, 1)
    result = grid.transfer(vector)
    candidates = result.forecast.candidates
    # of 4 blocks 1 and 2 are as near to block 1 of 3
    assert [each.target_layer for each in candidates] == [2, 1, 3]
    ratios = [each.forecast.signal_to_noise or 0 for each in candidates]
    assert ratios[0] > 1000 > max(ratios[1:])
    for each in candidates:
        alone = grid.transfer(vector, target_layer=each.target_layer)
        assert alone.forecast == each.forecast
        assert alone.vector.layer == each.target_layer
        assert alone.forecast.candidates == ()
        assert "\n" not in repr(each)
    assert result.forecast.signal_to_noise == ratios[0]


def test_a_pair_of_the_grid_is_the_map_of_these_layers(
    oracle: Oracle, later: LanguageModel, grid: lrt.MapGrid, texts: list[str], prompts: Prompts
) -> None:
    vector = vector_of(oracle.source, prompts, 2)
    for layers in ((1, 2), (2, 1)):  # the planted one, and one that is no more than correlated
        alone = lrt.fit_map(oracle.source, later, texts, layers=layers, **GRID_SETTINGS)
        pair = grid.at(*layers)
        assert pair.ridge_weight == alone.ridge_weight
        full = pair.card["metrics"]["fvu_full"]
        assert full == pytest.approx(alone.fvu, rel=1e-5, abs=1e-9)
        assert full - 1e-9 <= pair.fvu <= full + grid.card["loss"]
        assert [fold.count for fold in pair.folds] == [fold.count for fold in alone.folds]
        assert pair.card["residual_norms"] == alone.card["residual_norms"]
    one, other = pair.transfer(vector).forecast, alone.transfer(vector).forecast
    assert one.signal_to_noise == pytest.approx(other.signal_to_noise, rel=1e-5)

    small = lrt.fit_map(oracle.source, later, texts, layers=([2], [1]), loss=0, **GRID_SETTINGS)
    assert isinstance(small, lrt.MapGrid)
    torch.testing.assert_close(
        small.at(2, 1).mapping.affine.weight, alone.mapping.affine.weight, rtol=1e-5, atol=1e-5
    )


def test_less_loss_keeps_more_ranks_and_a_large_one_is_warned_of(
    oracle: Oracle, later: LanguageModel, grid: lrt.MapGrid, texts: list[str], prompts: Prompts
) -> None:
    lossy = lrt.fit_map(oracle.source, later, texts, layers=([2], "every 2"), loss=0.4, **GRID_SETTINGS)
    assert isinstance(lossy, lrt.MapGrid)
    assert lossy.target_layers == (0, 2)
    assert lossy.maps_bytes < grid.maps_bytes / 9 * 2
    for pair in lossy.pairs:
        assert pair.rank < 32
        assert pair.fvu <= pair.fvu_full + 0.4
        assert pair.change > 0.05
    vector = vector_of(oracle.source, prompts, 2)
    forecasts = [lossy.transfer(vector, target_layer=layer).forecast for layer in (0, 2)]
    for forecast in forecasts:
        assert forecast.full_map_cosine is not None
        assert ("loss" in " ".join(forecast.warnings)) == (forecast.full_map_cosine < 0.95)
    assert any(forecast.warnings for forecast in forecasts)


def test_saved_maps_are_the_same_to_the_bit(
    oracle: Oracle, grid: lrt.MapGrid, prompts: Prompts, tmp_path: Path
) -> None:
    grid.save(str(tmp_path / "map"))
    loaded = lrt.load_map(str(tmp_path / "map"))
    assert isinstance(loaded, lrt.MapGrid)
    assert repr(loaded) == repr(grid)
    assert loaded.pairs == grid.pairs
    for layer in SOURCE:
        vector = vector_of(oracle.source, prompts, layer)
        one, other = grid.transfer(vector), loaded.transfer(vector)
        assert torch.equal(one.vector.direction, other.vector.direction)
        assert one.forecast == other.forecast
    card = json.loads((tmp_path / "map" / "mapping.json").read_text())["card"]
    assert card["sums"]["bytes"] == grid.sums_bytes
    assert grid.sums_bytes <= (tmp_path / "map" / "sums.safetensors").stat().st_size
    assert grid.maps_bytes <= (tmp_path / "map" / "mapping.safetensors").stat().st_size
    assert "at most 0.005 " in (tmp_path / "map" / "README.md").read_text()
    # each source's and target's scatter once, not once for each pair
    alone = grid.at(0, 1).sums_bytes
    assert grid.sums_bytes < 0.7 * 9 * alone

    grid.at(1, 2).save(tmp_path / "map")  # one pair in the place of all
    pair = lrt.load_map(tmp_path / "map")
    assert isinstance(pair, lrt.FittedMap)
    vector = vector_of(oracle.source, prompts, 1)
    assert pair.transfer(vector, target_layer=2).forecast == grid.transfer(vector, target_layer=2).forecast


def test_of_like_forecasts_the_nearest_depth_is_chosen() -> None:
    def chosen(source_layer: int, depths: tuple[int, int], **ratios: float | None) -> int:
        candidates = [
            Candidate(int(name[1:]), 0.1, VectorForecast(signal_to_noise=ratio))
            for name, ratio in ratios.items()
        ]
        ordered = best_first(candidates, source_layer, *depths)
        assert {each.target_layer for each in ordered} == {each.target_layer for each in candidates}
        return ordered[0].target_layer

    assert chosen(15, (24, 28), l10=9.0, l14=6.0, l17=5.0, l21=12.0) == 17
    assert chosen(15, (24, 28), l10=9.0, l14=6.0, l17=2.0, l21=12.0) == 21  # lost at block 17
    assert chosen(15, (24, 28), l14=None, l17=None, l21=None) == 17  # without sums
    assert chosen(15, (24, 28), l14=6.0, l17=None) == 14
    assert chosen(15, (24, 28), l14=float("inf"), l17=1e6) == 14
    assert chosen(1, (3, 4), l1=6.0, l2=7.0) == 2  # as near: the clearer one
    assert chosen(1, (3, 4), l1=6.0, l2=6.0) == 1


def test_without_sums_the_nearest_depth_is_chosen(
    oracle: Oracle, grid: lrt.MapGrid, prompts: Prompts, tmp_path: Path
) -> None:
    grid.save(tmp_path)
    grid.save(tmp_path, sums=False)
    assert not (tmp_path / "sums.safetensors").exists()
    bare = lrt.load_map(tmp_path)
    assert "no sums" in repr(bare)
    vector = vector_of(oracle.source, prompts, 0)
    result = bare.transfer(vector)
    assert torch.equal(result.vector.direction, grid.transfer(vector).vector.direction)
    assert result.forecast.signal_to_noise is None
    assert len(result.forecast.warnings) == 1
    assert len(result.forecast.candidates) == 3


def test_what_is_not_in_the_grid_is_named(oracle: Oracle, grid: lrt.MapGrid, prompts: Prompts) -> None:
    vector = vector_of(oracle.source, prompts, 1)
    with pytest.raises(lrt.InvalidValue, match=r"layer 7.*0-2"):
        grid.transfer(replace(vector, layer=7))
    with pytest.raises(lrt.InvalidValue, match=r"target_layer=0.*1-3"):
        grid.transfer(vector, target_layer=0)
    with pytest.raises(lrt.InvalidValue, match=r"source_layer=9.*0-2"):
        grid.at(9, 1)
    for layer in ("best", True, None, 1.0):
        with pytest.raises(lrt.InvalidValue, match="target_layer"):
            grid.transfer(vector, target_layer=layer)  # type: ignore[arg-type]
    with pytest.raises(lrt.InvalidValue, match="another model"):
        grid.transfer(replace(vector, model="another", layer=7))
    for wrong in (torch.ones(5), torch.zeros(32)):
        with pytest.raises(lrt.InvalidValue):
            grid.transfer(replace(vector, direction=wrong))
    with pytest.raises(lrt.InvalidValue, match=r"target_layer=3.*layer 2"):
        grid.at(1, 2).transfer(vector, target_layer=3)


def test_the_memory_that_is_needed_is_refused_before_any_text_is_read(
    oracle: Oracle, grid: lrt.MapGrid, texts: list[str]
) -> None:
    unread = iter(texts)
    with pytest.raises(lrt.InvalidValue, match="memory_gb") as refused:
        lrt.fit_map(oracle.source, oracle.target, unread, layers=("all", "all"), folds=4, memory_gb=1e-4)
    assert next(unread) == texts[0]
    needed = float(re.findall(r"needs ([\d.]+) GB", str(refused.value))[0])
    assert needed * 1e9 > grid.sums_bytes * 6 / 4  # with both held-out parts


@pytest.mark.parametrize(
    ("layers", "blocks"),
    [
        ("auto", (0, 1, 2)),
        ("all", (0, 1, 2)),
        ("every 2", (0, 2)),
        ("every 9", (0,)),
        ([2, 0], (0, 2)),
        (range(1, 3), (1, 2)),
        ((0.9,), (2,)),
        (0.5, (1,)),
    ],
)
def test_layers_are_named_in_several_ways(story_lm: LanguageModel, layers: Any, blocks: tuple[int]) -> None:
    assert blocks_of(story_lm, layers, "layers[0]") == blocks


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ("every 0", "every"),
        ("every", "every"),
        ("1", "'1'"),
        ((), r"\(\)"),
        (None, "None"),
        ({1}, "1"),
        ([0, 3], r"\[1\]=3"),
        ([True], "True"),
        (["auto"], "auto"),
        ([1, 0.5], "block 1 .* twice"),
    ],
)
def test_what_names_no_layers_is_refused(story_lm: LanguageModel, layers: Any, named: str) -> None:
    with pytest.raises(lrt.InvalidValue, match=rf"layers\[0\].*{named}"):
        blocks_of(story_lm, layers, "layers[0]")


@pytest.mark.parametrize("loss", [-0.1, float("nan")])
def test_a_loss_below_zero_is_refused(oracle: Oracle, loss: float) -> None:
    with pytest.raises(lrt.InvalidValue, match="loss"):
        lrt.fit_map(oracle.source, oracle.target, ["Once"], layers=("auto", 1), loss=loss)


def test_a_card_of_other_layers_or_widths_is_no_map(grid: lrt.MapGrid, tmp_path: Path) -> None:
    card = {**grid.card, "sums": None}
    models = {**card["models"], "source": {**card["models"]["source"], "width": 31}}
    for changed in (
        {"pairs": card["pairs"][:-1]},
        {"pairs": [{"source": 0}]},
        {"layers": {"source": [0, 1, 5], "target": [1, 2, 3]}},
        {"residual_norms": [1.0]},
        {"models": models},
        {"models": {}},
    ):
        save_pair_maps(tmp_path, dict(grid.maps), {**card, **changed})
        with pytest.raises(MapForeign, match=r"lrt\.fit_map"):
            lrt.load_map(tmp_path)
    with pytest.raises(MapForeign, match=r"several pairs"):  # what one map is needed for
        load_map(tmp_path)
    with pytest.raises(MapMissing):
        lrt.load_map(tmp_path / "nowhere")


def test_a_grid_prints_one_line(grid: lrt.MapGrid) -> None:
    line = repr(grid)
    assert "\n" not in line
    assert "tensor" not in line
    for part in ("0-2", "1-3", "9 pairs", "FVU", "MB"):
        assert part in line


@pytest.mark.parametrize("float64", [True, False], ids=["CUDA", "a device without float64, as MPS"])
def test_a_grid_is_fitted_where_the_models_are(
    oracle: Oracle, later: LanguageModel, texts: list[str], prompts: Prompts, float64: bool
) -> None:
    settings: dict[str, Any] = {"layers": ([1], [1, 2]), "pool": 2, "tokens": 2048, "folds": 2}
    here = lrt.fit_map(oracle.source, later, texts, **settings)
    with pretend_cuda():
        models = [
            LanguageModel(lm.spec, copy.deepcopy(lm.model).to("cuda:0"), lm.tokenizer)
            for lm in (oracle.source, later)
        ]
        place = (lambda device: device) if float64 else (lambda _: CPU)
        with mock.patch("lrt.api.fitting.with_float64", place):
            there = lrt.fit_map(*models, texts, **settings)
        result = there.transfer(vector_of(models[0], prompts, 1))
    expected = here.transfer(vector_of(oracle.source, prompts, 1))
    assert result.vector.layer == expected.vector.layer == 2
    torch.testing.assert_close(result.vector.direction, expected.vector.direction, rtol=1e-4, atol=1e-5)
    assert "\n" not in repr(there)
