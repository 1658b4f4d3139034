"""What a run says of its maps: layer pairs, ranks, fidelity, features, forecast, and which forecast tells."""

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from lrt.runtime.analyses.features import Features
from lrt.runtime.vectors import Vectors
from running import Workshop, run_main
from upstream_files import gemma_scope

from lrt.evaluation import Behaviour, Chosen, StrengthChoice
from lrt.mapping import MapModule, atlas, load_map
from studies.coverage import PREDICTORS, Coverage
from studies.coverage import main as coverage

# those of experiment=micro
EVERYTHING = (
    "analysis.rank_curve=true",
    "analysis.atlas=true",
    "analysis.many_to_one=true",
    "analysis.fidelity_tokens=1024",
    "analysis.sae.features=64",
    "evaluation.during_training.behaviours=[]",
)


def test_the_results_hold_every_analysis(workshop: Workshop) -> None:
    done = workshop.train(*EVERYTHING, "evaluate=true", "fit=closed_form")
    assert done.code == 0, done.told
    results: dict[str, Any] = json.loads((workshop.report / "results.json").read_text())
    (cell,) = results["atlas"]
    assert (cell["source_layer"], cell["target_layer"]) == (1, 2)
    # the atlas's one pair is the map's own, solved anew
    assert cell["fvu"] == pytest.approx(results["map"]["optimum_fvu"], rel=1e-6)
    assert set(cell["error_along"]) == {"french", "bravery"}
    curve = results["rank_curve"]
    assert curve["fvu"][-1] == pytest.approx(results["map"]["optimum_fvu"], rel=1e-6)
    assert len(curve["ranks"]) == len(curve["truncated_fvu"])
    assert "many_to_one" not in results  # of one recorded source layer there is nothing to lay side by side
    assert "notes" not in results
    rows = {row["name"]: row for row in results["fidelity"]["rows"]}
    assert rows["target"]["loss_recovered"]["value"] == 1.0
    assert rows["target"]["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert {"source", "mean ablated", "full", "orthogonal", "mean only", "shuffled pairs"} <= set(rows)
    mean, ablated = rows["mean only"], rows["mean ablated"]
    assert mean["cross_entropy"]["value"] == pytest.approx(ablated["cross_entropy"]["value"], rel=1e-4)
    assert [cut["layer"] for cut in results["fidelity"]["stitching_depths"]] == [2]
    for behaviour in results["behaviours"]:
        forecast = behaviour["forecast"]
        assert forecast["signal_to_noise"] > 0
        assert math.isfinite(forecast["optimistic_error"])
        assert -1 <= forecast["agreement_documents"] <= 1
    # a forecast leaves out each of three parts, and of their held-out rows it asks nothing
    gathered = [set(json.loads(f.read_text())) for f in workshop.artifacts.glob("moments/*/names.json")]
    assert sum("train/0" in names and "validation" not in names for names in gathered) == 3
    sae = results["sae"]
    for side, width in (("source", 32), ("target", 48)):
        assert sae[side]["width"] == width
        assert sae[side]["l0"] == pytest.approx(8.0, abs=0.5)
        assert 0 < sae[side]["fvu"] < 1
    assert {"matched", "random", "shuffled"} <= set(sae["geometry"])
    (french,) = sae["steering"]
    assert french["behaviour"] == "french"
    assert len(french["features"]) == 16


def trained_again(*_: Any) -> None:
    raise AssertionError("what was trained is trained again")


def test_features_are_mapped_by_training_where_that_is_asked_for(workshop: Workshop) -> None:
    asked = (*EVERYTHING[4:], "evaluate=true", "analysis.sae.s2l=trained")
    longer = "fit.epochs=20"
    refused = workshop.train(*asked, "fit=closed_form")
    assert refused.code == 1
    assert "analysis.sae.s2l=trained needs a fit by gradient steps" in refused.line
    assert not workshop.files("activations")
    done = workshop.train(*asked, longer)
    assert done.code == 0, done.told
    (french,) = json.loads((workshop.report / "results.json").read_text())["sae"]["steering"]
    assert french["s2l_fit"]["fitted"] == "trained"
    assert french["s2l_fit"]["optimum"] < french["s2l_fit"]["fvu"] < 1
    # killed after the training, while something is measured: found trained, and not begun again
    for file in workshop.files("analysis"):
        if file.name.startswith("sae-"):
            file.unlink()
    for file in workshop.files("measurements"):
        if "features" in file.name:
            file.unlink()
    with mock.patch.object(Features, "_measured", side_effect=KeyboardInterrupt):
        assert workshop.train(*asked, longer).code == 130
    assert list(workshop.artifacts.glob("saes/s2l-*/checkpoints/last.ckpt"))
    with mock.patch.object(MapModule, "training_step", trained_again):
        assert workshop.train(*asked, longer).code == 0
    (again,) = json.loads((workshop.report / "results.json").read_text())["sae"]["steering"]
    assert again["s2l_fit"] == french["s2l_fit"]
    assert not list(workshop.artifacts.glob("saes/s2l-*"))
    assert workshop.train(*asked, longer, "analysis.sae.s2l=solved").code == 0
    (solved,) = json.loads((workshop.report / "results.json").read_text())["sae"]["steering"]
    assert solved["s2l_fit"]["fvu"] == pytest.approx(solved["s2l_fit"]["optimum"])
    assert solved["s2l"]["mean"] != french["s2l"]["mean"]


def test_all_recorded_layers_are_in_the_atlas(trained: Workshop) -> None:
    done = trained.train(
        "recording.source=all",
        "recording.target=all",
        "evaluate=true",
        "analysis.atlas=true",
        "analysis.many_to_one=true",
        "analysis.fidelity_tokens=512",
        "analysis.fidelity_kinds=[full,orthogonal]",
        "evaluation.during_training.behaviours=[]",
        "fit=closed_form",
        "pool=1",
    )
    assert done.code == 0, done.told
    found = json.loads((trained.report / "results.json").read_text())
    assert "sae" not in found
    of = {row["name"] for row in found["fidelity"]["rows"]}
    assert {"full", "orthogonal"} <= of
    assert not {name for name in of if name.startswith(("rank", "orthogonal penalty"))}
    assert [(c["source_layer"], c["target_layer"]) for c in found["atlas"]] == [
        (s, t) for s in range(3) for t in range(4)
    ]
    assert [each["target_layer"] for each in found["many_to_one"]] == [0, 1, 2, 3]
    for each in found["many_to_one"]:
        column = [c for c in found["atlas"] if c["target_layer"] == each["target_layer"]]
        alone = {c["source_layer"]: c["fvu"] for c in column}
        assert {int(s): v for s, v in each["fvu_single"].items()} == pytest.approx(alone, rel=1e-6)
        assert each["fvu_all"] < min(alone.values())
    # cut at every block, each with the source's blocks up to the same depth: 3 of them against 4
    cuts = {cut["layer"]: cut for cut in found["fidelity"]["stitching_depths"]}
    assert {at: cut["source_layers"] for at, cut in cuts.items()} == {0: [0], 1: [0], 2: [0, 1], 3: [0, 1, 2]}
    flops = [cut["cost"]["stitched"]["flops_per_token"] for _, cut in sorted(cuts.items())]
    assert flops[0] > flops[1]  # the same early blocks, one late block less
    page = (trained.report / "index.html").read_text()
    assert 'id="atlas"' in page


def steering_at(*layers: int) -> Any:
    """What the models' own vectors would do: the target's at block 3, the source's at some of its blocks."""

    def chosen(self: Vectors, _behaviour: Behaviour, side: str = "target") -> Chosen:
        tried = tuple((layer, 1.0, layer in layers) for layer in range(3))
        choice = StrengthChoice(0.5, 1.0, False, 2, 3 if side == "target" else 0, tried)
        return Chosen(choice, self.steerable("target", 3), (), ())

    return mock.patch.object(Vectors, "chosen", chosen)


AUTOMATIC = (
    "layers.source=auto",
    "layers.target=auto",
    "fit=closed_form",
    "pool=1",
    "evaluation.during_training.behaviours=[]",
    "suite.names=[french]",
)


@pytest.mark.parametrize(("steering", "chosen"), [((1,), [1]), ((0, 2), None), ((), None)])
def test_layers_are_chosen_by_what_steers_and_by_the_error_along_it(
    trained: Workshop, steering: tuple[int, ...], chosen: list[int] | None
) -> None:
    with steering_at(*steering):
        done = trained.train(*AUTOMATIC)
    assert done.code == 0, done.told
    _, card = load_map(trained.one("maps/*"))
    assert card["layers"]["target"] == [3]
    (source,) = card["layers"]["source"]
    assert source in (steering or (0, 1, 2))
    assert chosen is None or [source] == chosen
    assert ("steers it at no candidate layer" in done.line) == (not steering)


def test_layers_are_not_chosen_on_test_documents(trained: Workshop) -> None:
    seen: list[tuple[Any, ...]] = []

    def watched(*moments: Any, **how: Any) -> Any:
        seen.append(moments)
        return atlas(*moments, **how)

    with steering_at(0, 2), mock.patch("lrt.runtime.automatic.atlas", watched):
        done = trained.train(*AUTOMATIC)
    assert done.code == 0, done.told
    ((train, chosen, scored, *_),) = seen
    assert scored is chosen is not train
    # and among those that steer the one with the least error along the vector was taken
    cells = [cell for cell in atlas(*seen[0]) if cell.target_layer == 3 and cell.source_layer in (0, 2)]
    least = min(cells, key=lambda cell: cell.error_along["french"])
    _, card = load_map(trained.one("maps/*"))
    assert card["layers"]["source"] == [least.source_layer]


def test_the_forecasts_are_scored_on_maps_with_parts_left_out(workshop: Workshop) -> None:
    # untrained models steer nothing, so what is measured is put in
    def kept(_self: Any, _behaviour: Any, _layer: int, maps: dict[str, Any]) -> dict[str, float]:
        return {name: 1.0 if name.startswith(("all", "without")) else 0.2 for name in maps}

    settings = [s for s in workshop.settings() if not s.startswith("corpus.sources.")]
    with mock.patch.object(Coverage, "_kept", kept):
        ran = run_main(coverage, "coverage", *settings, "corpus=storybook", "layers.target=[1,2]")
    assert ran.code == 0, ran.told
    found = json.loads((workshop.report / "coverage.json").read_text())
    assert {row["behaviour"] for row in found["rows"]} == {"french", "bravery"}
    assert {row["layer"] for row in found["rows"]} == {1, 2}
    corpora = {row["corpus"] for row in found["rows"]}
    assert {"all", "without stories", "questions alone", "half 0"} <= corpora
    assert set(found["scored"]) == {*PREDICTORS, "cosine"}
    for scored in found["scored"].values():
        low, high = scored["spearman_ci"]
        assert low <= scored["spearman"] <= high
    for row in found["rows"]:
        assert all(math.isfinite(row[name]) for name in PREDICTORS)
    assert "Which figure tells" in ran.line


def test_published_autoencoders_are_looked_at_in_the_place_of_trained_ones(
    workshop: Workshop, tmp_path: Path
) -> None:
    source, target = gemma_scope(tmp_path / "a", 32, 1), gemma_scope(tmp_path / "b", 48, 2)
    more = ("fit=closed_form", "evaluation.during_training.behaviours=[]", "analysis.sae.features=0")
    paths = (f"analysis.sae.source={source}", f"analysis.sae.target={target}")
    done = workshop.train(*more, *paths, "evaluate=true")
    assert done.code == 0, done.told
    sae = json.loads((workshop.report / "results.json").read_text())["sae"]
    assert (sae["source"]["kind"], sae["source"]["features"], sae["target"]["layer"]) == ("jumprelu", 40, 2)
    assert not (workshop.artifacts / "saes").exists()
    # one of another layer or width is told before anything else is done
    elsewhere = Workshop(workshop.pair, tmp_path / "elsewhere")
    for path, said in (
        (gemma_scope(tmp_path / "c", 32, 2), "layer 2, these states are of layer 1"),
        (gemma_scope(tmp_path / "d", 40, 1), "width 40, these are 32 wide"),
    ):
        refused = elsewhere.train(*more, f"analysis.sae.source={path}", paths[1])
        assert refused.code == 1
        assert said in refused.line, refused.told
        assert not elsewhere.files("activations")
    alone = elsewhere.train(*more, paths[0])
    assert alone.code == 1
    assert "give both, or set analysis.sae.features" in alone.line


def test_a_fit_that_its_rows_do_not_determine(workshop: Workshop) -> None:
    few = ("corpus.tokens.train=256", "fit.ridge=false", "evaluation.during_training.behaviours=[]")
    done = workshop.train(*few, "pool=16")
    assert done.code == 1
    assert "rows do not determine a map of 32 source dimensions without a ridge" in done.line
    assert "set fit.ridge=true" in done.line


def test_products_are_a_setting(workshop: Workshop) -> None:
    more = ("fit=closed_form", "evaluation.during_training.behaviours=[]", "pool=1")
    fvu = {}
    for products in ("float32", "float64"):
        done = workshop.train(*more, f"products={products}")
        assert done.code == 0, done.told
        (card,) = (load_map(f)[1] for f in workshop.artifacts.glob("maps/*") if f.name not in fvu)
        fvu[card["fingerprint"]] = card["metrics"]["fvu"]
    assert len(fvu) == 2
    one, other = fvu.values()
    assert one == pytest.approx(other, rel=1e-5)
    refused = workshop.train(*more, "products=bfloat16")
    assert refused.code == 1
    assert "products" in refused.line
