"""Optional analyses: what each finds on planted pairs, what is cached, and none aborts the others."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import pytest
from stages import QUESTIONS, STORIES, Stages, corpus
from upstream_files import gemma_scope

from lrt.config import ConfigError, Layers
from lrt.errors import UserError
from lrt.features import SaeError, SaeModule
from lrt.mapping import FitSpec, MapModule, MapSpec, NotConverged, closed_form
from lrt.pipeline.analyses import Analysis
from lrt.pipeline.analyses.analysis import run_analyses
from lrt.pipeline.analyses.autoencoders import check_candidates
from lrt.pipeline.analyses.features import Features
from lrt.pipeline.analyses.layers import RankCurve
from lrt.storage.cache import Cache, CacheCorrupt

LAYERS = {
    "analysis__rank_curve": True,
    "analysis__atlas": True,
    "analysis__many_to_one": True,
}
FIDELITY = {"analysis__fidelity_tokens": 256, "analysis__fidelity_kinds": ("full", "low_rank")}
TRAINED = {"sae__features": 32}


# -- one never aborts the others ---------------------------------------------------------------------


@dataclass
class Planted(Analysis):
    """An analysis that returns, or raises, what it is given."""

    name: str  # type: ignore[misc]
    result: Any
    smaller = "plant less"
    made: int = 0

    def facts(self) -> Mapping[str, Any]:
        return {"planted": self.name}

    def make(self) -> Any:
        self.made += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_what_cannot_be_made_is_a_note_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third, fourth = planted = [
        Planted("first", 1),
        Planted("second", UserError("too few rows")),
        Planted("third", ValueError("a bug")),
        Planted("fourth", 4),
    ]
    with caplog.at_level(logging.WARNING):
        results = run_analyses(planted, Cache(tmp_path))
    assert results["first"] == 1
    assert results["fourth"] == 4
    assert set(results["notes"]) == {"second", "third"}
    assert results["notes"]["second"] == "too few rows"
    assert results["notes"]["third"].startswith("failed (ValueError: a bug)")
    traced = [record.name and record.exc_info for record in caplog.records if "third" in record.getMessage()]
    assert traced[0] is not None
    assert traced[0][0] is ValueError  # the log has the traceback
    assert not any(record.exc_info for record in caplog.records if "second" in record.getMessage())
    # what failed is tried again, what was made is not
    second.result = third.result = "now"
    again = run_analyses(planted, Cache(tmp_path))
    assert "notes" not in again
    assert (first.made, second.made, third.made, fourth.made) == (1, 2, 2, 1)


@pytest.mark.parametrize(
    "error", [CacheCorrupt("artifacts/x is damaged"), ConfigError("no"), SaeError("no such file")]
)
def test_what_the_user_has_to_fix_is_raised(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run_analyses([Planted("first", error)], Cache(tmp_path))


def test_a_version_is_part_of_what_determines_a_result(tmp_path: Path) -> None:
    planted = Planted("first", 1)
    for version in (1, 2, 2):
        with mock.patch.object(Planted, "version", version):
            run_analyses([planted], Cache(tmp_path))
    assert planted.made == 2


@pytest.mark.parametrize(
    ("error", "said"), [(UserError("no spread"), "no spread"), (KeyError("k"), "failed")]
)
def test_a_forecast_that_cannot_be_made_stops_no_measurement(
    shared: Stages, error: Exception, said: str
) -> None:
    stages = shared.but(pool=8)
    stages.fitted()
    with mock.patch("lrt.pipeline.analyses.forecast.residual_on", side_effect=error):
        forecast = stages.analyses.forecasts.of(stages.maps.whole, stages.suite[1], 2)
    assert set(forecast) == {"warning"}
    assert said in forecast["warning"]
    with (
        mock.patch.object(Cache, "made_once", side_effect=CacheCorrupt("damaged")),
        pytest.raises(CacheCorrupt),
    ):
        stages.analyses.forecasts.of(stages.maps.whole, stages.suite[1], 2)


# -- layers and ranks --------------------------------------------------------------------------------


def test_layers_and_ranks_of_an_image(oracle: Stages) -> None:
    """Block n of the source is block n of its image: the diagonal is exact, and needs the full rank."""
    stages = oracle.but(**LAYERS)
    metrics = stages.fitted()["whole corpus"]["metrics"]
    results = stages.analyses.results()
    assert "notes" not in results
    cells = {(cell["source_layer"], cell["target_layer"]): cell for cell in results["atlas"]}
    assert set(cells) == {(s, t) for s in range(3) for t in range(3)}
    assert all(cells[n, n]["fvu"] < 1e-4 for n in range(3))
    assert all(cell["fvu"] > 0.01 for (s, t), cell in cells.items() if s != t)
    assert cells[1, 1]["fvu"] == pytest.approx(metrics["optimum_fvu"], abs=1e-6)
    assert set(cells[1, 1]["error_along"]) == {"capitals", "bravery"}
    curve = results["rank_curve"]
    assert curve["fvu"][-1] == pytest.approx(metrics["optimum_fvu"], abs=1e-6)
    assert curve["fvu"][0] > 0.1
    assert len(curve["ranks"]) == len(curve["truncated_fvu"])
    for each in results["many_to_one"]:
        at = each["target_layer"]
        alone = {s: cells[s, at]["fvu"] for s in range(3)}
        assert {int(s): v for s, v in each["fvu_single"].items()} == pytest.approx(alone, abs=1e-6)
        assert each["fvu_all"] < 1e-3
    assert results["many_to_many"]["fvu"] < 1e-3


def test_one_source_layer_is_not_compared_with_others(shared: Stages) -> None:
    one = shared.but(**LAYERS, recording__source=(), recording__target=())
    assert [each.name for each in one.analyses.wanted] == ["rank_curve", "atlas"]
    several = shared.but(**LAYERS, recording__target=())
    assert [each.name for each in several.analyses.wanted] == ["rank_curve", "atlas", "many_to_one"]


def test_results_are_cached_by_what_determines_them(shared: Stages) -> None:
    stages = shared.but(analysis__rank_curve=True, **FIDELITY, analysis__stitching_depths=False)
    stages.fitted()
    stages.analyses.results()
    counts = stages.analysed()
    same = stages.but()
    with (
        mock.patch.object(RankCurve, "make", side_effect=AssertionError("made again")),
        mock.patch("lrt.pipeline.analyses.fidelity.fidelity", side_effect=AssertionError("made again")),
    ):
        assert "notes" not in same.analyses.results()
    # the rank curve is of the rows, the fidelity of the fitted map too
    other = stages.but(map=MapSpec("low_rank", rank=4))
    other.fitted()
    other.analyses.results()
    after = stages.analysed()
    assert after["rank_curve"] == counts["rank_curve"]
    assert after["fidelity"] == counts["fidelity"] + 1


# -- fidelity ----------------------------------------------------------------------------------------


def test_the_target_goes_on_from_an_exact_map_as_from_its_own_states(oracle: Stages) -> None:
    stages = oracle.but(**FIDELITY)
    stages.fitted()
    fidelity = stages.analyses.results()["fidelity"]
    rows = {row["name"]: row for row in fidelity["rows"]}
    assert rows["full"]["kl"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert rows["target"]["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["full, this run's"]["kl"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert rows["shuffled pairs"]["kl"]["value"] > 10 * rows["full"]["kl"]["value"]
    mean, ablated = rows["mean only"], rows["mean ablated"]
    assert mean["cross_entropy"]["value"] == pytest.approx(ablated["cross_entropy"]["value"], rel=1e-3)
    assert not {name for name in rows if name.startswith("orthogonal")}
    assert fidelity["notes"] == {}
    depths = fidelity["stitching_depths"]
    assert [depth["source_layers"] for depth in depths] == [[0], [0, 1], [0, 1, 2]]


def test_stitching_takes_source_layers_up_to_the_same_depth(shared: Stages) -> None:
    """3 source blocks against 4 target blocks."""
    stages = shared.but(**FIDELITY)
    stages.fitted()
    depths = {d["layer"]: d for d in stages.analyses.results()["fidelity"]["stitching_depths"]}
    layers = {at: depth["source_layers"] for at, depth in depths.items()}
    assert layers == {0: [0], 1: [0], 2: [0, 1], 3: [0, 1, 2]}
    flops = [depths[at]["cost"]["stitched"]["flops_per_token"] for at in (0, 1)]
    assert flops[0] > flops[1]  # the same early blocks, one late block less


def test_a_kind_that_does_not_converge_leaves_the_others(shared: Stages) -> None:
    def circling(spec: Any, *moments: Any, **how: Any) -> Any:
        if spec.kind == "orthogonal_penalty":
            raise NotConverged("LBFGS went in circles")
        return closed_form(spec, *moments, **how)

    kinds = ("full", "orthogonal", "orthogonal_penalty")
    stages = shared.but(
        analysis__fidelity_tokens=256,
        analysis__fidelity_kinds=kinds,
        analysis__stitching_depths=False,
        map=MapSpec(bias=False),
    )
    stages.fitted()
    with mock.patch("lrt.pipeline.analyses.fidelity.closed_form", circling):
        fidelity = stages.analyses.results()["fidelity"]
    assert list(fidelity["notes"].values()) == ["LBFGS went in circles"]
    rows = {row["name"]: row for row in fidelity["rows"]}
    assert {"full", "orthogonal"} <= set(rows)
    assert rows["shuffled pairs"]["fvu"] > rows["mean only"]["fvu"] - 1e-9
    # the penalised kind is iterated and takes more memory
    without = stages.but(analysis__fidelity_kinds=kinds[:2])
    assert stages.analyses.wanted[0].memory > without.analyses.wanted[0].memory


# -- sparse autoencoders -----------------------------------------------------------------------------


def trained_again(*_: Any) -> None:
    raise AssertionError("trained again")


def test_autoencoders_are_trained_once_and_their_features_steer(shared: Stages) -> None:
    stages = shared.but(**TRAINED)
    stages.fitted()
    sae = stages.analyses.results()["sae"]
    for side, width in (("source", 32), ("target", 48)):
        assert sae[side]["width"] == width
        assert sae[side]["l0"] == pytest.approx(8.0, abs=0.5)
        assert 0 < sae[side]["fvu"] < 1
    assert {"matched", "random", "shuffled"} <= set(sae["geometry"])
    (capitals,) = sae["steering"]
    assert len(capitals["features"]) == 8
    assert capitals["layer"] == 2
    assert len(stages.files("saes")) == 4
    # another question to the same autoencoders
    other = stages.but(sae__behaviours=("capitals", "bravery"), sae__top=4)
    with mock.patch.object(SaeModule, "training_step", trained_again):
        steering = other.analyses.results()["sae"]["steering"]
    assert [each["behaviour"] for each in steering] == ["capitals", "bravery"]
    for setting in ({"batches": replace(stages.batches, rows=128)}, {"sae__features": 16}, {"seed": 1}):
        assert stages.but(**setting).analyses.wanted[0].facts() != stages.analyses.wanted[0].facts()


def test_an_autoencoder_is_kept_where_the_run_stops_behind_it(copied: Stages) -> None:
    stages = copied.but(**TRAINED)
    stages.fitted()
    with (
        mock.patch.object(Features, "_geometry", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        stages.analyses.results()
    assert len([path for path in stages.files("saes") if path.name == "sae.json"]) == 2
    assert not list(stages.folder.rglob("*.ckpt"))
    with mock.patch.object(SaeModule, "training_step", trained_again):
        assert stages.but().analyses.results()["sae"]["steering"]
    weights = next(path for path in stages.files("saes") if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    for file in stages.files("analysis"):
        file.unlink()
    with pytest.raises(CacheCorrupt, match=weights.parent.name):
        stages.but().analyses.results()


@pytest.mark.slow
def test_features_are_mapped_by_training_where_that_is_wanted(copied: Stages) -> None:
    stages = copied.but(**TRAINED, sae__s2l="trained", fit=FitSpec(epochs=4))
    stages.fitted()
    with (
        mock.patch.object(Features, "_measured", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        stages.analyses.results()
    assert list(stages.folder.glob("saes/s2l-*/checkpoints/last.ckpt"))
    # stopped behind the training: it is not begun again
    with mock.patch.object(MapModule, "training_step", trained_again):
        (capitals,) = stages.but().analyses.results()["sae"]["steering"]
    assert capitals["s2l_fit"]["fitted"] == "trained"
    assert capitals["s2l_fit"]["optimum"] < capitals["s2l_fit"]["fvu"]
    assert not list(stages.folder.rglob("saes/**/*.ckpt"))
    with pytest.raises(ConfigError, match=r"analysis\.sae\.s2l"):
        copied.but(**TRAINED, sae__s2l="trained").analyses.wanted[0].check()


def test_too_few_matched_features_are_a_note_of_the_geometry(shared: Stages) -> None:
    stages = shared.but(**TRAINED, sae__least_correlation=0.999, sae__behaviours=())
    stages.fitted()
    sae = stages.analyses.results()["sae"]
    assert set(sae["geometry"]) == {"note"}
    assert sae["steering"] == []


def test_autoencoders_are_trained_by_one_process_after_a_distributed_fit(copied: Stages) -> None:
    seen: list[tuple[int, str]] = []

    def watched(self: L.Trainer, *_: Any, **__: Any) -> None:
        seen.append((self.num_devices, type(self.strategy).__name__))

    several = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_spawn"}
    stages = copied.but(**TRAINED, trainer=several, sae__behaviours=())
    with mock.patch.object(L.Trainer, "fit", watched):
        stages.analyses.results()
    assert seen == [(1, "SingleDeviceStrategy")] * 2


def test_published_autoencoders_take_the_place_of_trained_ones(shared: Stages, tmp_path: Path) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    stages = shared.but(sae__source=str(source), sae__target=str(target), sae__behaviours=())
    before = stages.files("saes")
    stages.fitted()
    stages.analyses.check(10**9, False, stages.batches)
    sae = stages.analyses.results()["sae"]
    assert (sae["source"]["kind"], sae["source"]["features"], sae["target"]["layer"]) == ("jumprelu", 40, 2)
    assert stages.files("saes") == before
    # a file counts by its content
    facts = stages.analyses.wanted[0].facts()
    source.write_bytes(gemma_scope(tmp_path / "c", 32, 1, features=44).read_bytes())
    assert stages.but().analyses.wanted[0].facts() != facts


@pytest.mark.parametrize(("width", "layer"), [(32, 2), (40, 1)])
def test_a_file_of_another_layer_or_width_is_refused(
    shared: Stages, tmp_path: Path, width: int, layer: int
) -> None:
    source, target = gemma_scope(tmp_path / "a", width, layer), gemma_scope(tmp_path / "b", 48, 2)
    stages = shared.but(sae__source=str(source), sae__target=str(target))
    with pytest.raises(UserError):
        stages.analyses.check(10**9, False, stages.batches)
    settings, plan = (
        stages.analysis.sae,
        shared.but(layers=Layers("auto", "auto"), recording__source=(0, 1)).plan,
    )
    with pytest.raises(UserError):
        check_candidates(settings, plan.candidates)


# -- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ({"analysis__atlas": True}, "analysis.atlas"),
        ({"analysis__many_to_one": True}, "analysis.many_to_one"),
        ({"analysis__fidelity_tokens": 256}, "analysis.fidelity_tokens"),
        ({"analysis__rank_curve": True}, "analysis.rank_curve"),
        (TRAINED, "analysis.sae.features"),
    ],
)
def test_an_analysis_that_needs_too_much_memory_says_what_takes_less(
    shared: Stages, wanted: dict[str, Any], hint: str
) -> None:
    settings = {"batches": replace(shared.batches, window_rows=1), "corpus": corpus(stories=STORIES)}
    bare = shared.but(**settings).analyses
    limit = 0
    while True:  # the least that the maps themselves need
        try:
            bare.check(limit, False, settings["batches"])  # type: ignore[arg-type]
            break
        except ConfigError:
            limit += 2_000
    analyses = shared.but(**settings, **wanted).analyses
    with pytest.raises(ConfigError) as error:
        analyses.check(limit, False, settings["batches"])  # type: ignore[arg-type]
    assert hint in str(error.value)
    assert "analysis.memory_gb" in str(error.value)
    analyses.check(10**9, False, settings["batches"])  # type: ignore[arg-type]


def test_what_the_maps_need_is_checked_by_itself(shared: Stages) -> None:
    every = shared.but(
        layers=Layers((0, 1, 2), (0, 1, 2, 3)), corpus=corpus(stories=STORIES, questions=QUESTIONS)
    )
    wide, narrow = every.batches, replace(every.batches, window_rows=1)
    need = {}
    for name, batches in (("sums", narrow), ("window", wide)):
        low, high = 0, 10**9
        while high - low > 1000:
            limit = (low + high) // 2
            try:
                every.analyses.check(limit, False, batches)
                high = limit
            except ConfigError as error:
                low, message = limit, str(error)
        need[name] = low, message
    assert need["window"][0] > need["sums"][0]
    assert "batches.window_rows" in need["window"][1]
    with pytest.raises(ConfigError, match=r"evaluation\.folds"):
        every.analyses.check(1, False, narrow)
    # rows that stay where they lie need no window
    tokens = every.but(pool=1, corpus=corpus(stories=STORIES))
    with pytest.raises(ConfigError, match=r"evaluation\.folds"):
        tokens.analyses.check(1, True, wide)
    tokens.analyses.check(need["sums"][0] + 2000, False, wide)
