import copy
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from oracle_pair import LAYER, SCALE, Oracle
from pretend_devices import pretend_cuda
from storybook_models import tiny_llama
from torch.nn.functional import cosine_similarity

import lrt
from lrt.api.layer_spec import blocks_of, one_layer
from lrt.api.vector_forecast import LEAST_SIGNAL_TO_NOISE, MOST_RESIDUAL
from lrt.cli.composing import CONF
from lrt.corpora import text_id
from lrt.lab.shipped import folder_of
from lrt.mapping import MapCorrupt, MapError, MapForeign, MapMissing, save_map
from lrt.models import LanguageModel, ModelSpec
from lrt.steering import difference_of_means, last_token_states

Prompts = tuple[list[str], list[str]]


def vector_of(lm: LanguageModel, prompts: Prompts) -> lrt.SteeringVector:
    return lrt.extract_vector(lm, *prompts, layer=LAYER, behaviour="french")


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


# -- the package ------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import lrt; new = {n.split('.')[0] for n in "
        "set(sys.modules) - before}; print(*(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lrt"]


def test_every_name_is_there_and_documented() -> None:
    assert set(lrt.__all__) <= set(dir(lrt))
    for name in lrt.__all__:
        assert getattr(lrt, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lrt.no_such_name


def test_what_cannot_be_used_is_a_user_error() -> None:
    assert issubclass(lrt.InvalidValue, lrt.UserError)
    with pytest.raises(lrt.UserError, match="no_such_folder"):
        lrt.load("./no_such_folder")
    with pytest.raises(lrt.InvalidValue, match="dtype"):
        lrt.load("small", dtype="float8")  # type: ignore[arg-type]


def test_a_model_is_loaded_by_its_path_and_prints_one_line() -> None:
    lm = lrt.load(folder_of("tiny"), dtype="float32", name="little")
    assert (lm.spec.name, lm.dtype) == ("little", torch.float32)
    assert "little" in repr(lm)
    assert "\n" not in repr(lm)
    drawn = [lrt.load(folder_of("tiny"), weights="random", seed=seed) for seed in (1, 1, 2)]
    weights = [each.embeddings for each in drawn]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# -- text ---------------------------------------------------------------------------------------------


def test_a_model_writes_what_its_own_generate_writes(story_lm: LanguageModel) -> None:
    ids = story_lm.tokenizer("Once upon", return_tensors="pt")
    whole = story_lm.model.generate(**ids, max_new_tokens=6, do_sample=False)
    new = whole[0, ids["input_ids"].shape[1] :]
    written = story_lm.generate("Once upon", max_new_tokens=6)
    assert written == story_lm.tokenizer.decode(new, skip_special_tokens=True)
    assert not written.startswith("Once upon")


def test_text_is_steered_inside_steer_alone(story_lm: LanguageModel, prompts: Prompts) -> None:
    vector, before = vector_of(story_lm, prompts), story_lm.generate("Once", 8)
    with lrt.steer(story_lm, vector, strength=5):
        steered = story_lm.generate("Once", 8)
    with lrt.steer(story_lm, vector, strength=0):
        unchanged = story_lm.generate("Once", 8)
    assert steered != before
    assert unchanged == story_lm.generate("Once", 8) == before


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "0.4", None, True])
def test_a_strength_is_a_finite_number(story_lm: LanguageModel, prompts: Prompts, strength: float) -> None:
    vector = vector_of(story_lm, prompts)
    with pytest.raises(lrt.InvalidValue, match="strength"), lrt.steer(story_lm, vector, strength):
        pass
    with pytest.raises(lrt.InvalidValue, match="9"), lrt.steer(story_lm, replace(vector, layer=9), 1):
        pass


def test_layers_and_strengths_may_be_numbers_of_numpy(story_lm: LanguageModel, prompts: Prompts) -> None:
    plain = lrt.extract_vector(story_lm, *prompts, layer=1)
    vector = lrt.extract_vector(story_lm, *prompts, layer=np.int64(1))  # type: ignore[arg-type]
    assert torch.equal(vector.direction, plain.direction)
    assert type(vector.layer) is int
    assert blocks_of(story_lm, np.int64(1), "layers") == (1,)  # type: ignore[arg-type]
    assert one_layer(np.int64(1))
    with lrt.steer(story_lm, vector, np.float32(5)):  # type: ignore[arg-type]
        steered = story_lm.generate("Once", 8)
    with lrt.steer(story_lm, plain, 5):
        assert story_lm.generate("Once", 8) == steered


@pytest.mark.parametrize(
    ("prompt", "new"), [("Once", 0), ("Once", 2.5), ("Once", True), (["Once"], 3), (7, 3)]
)
def test_a_prompt_is_one_text(story_lm: LanguageModel, prompt: object, new: int) -> None:
    with pytest.raises(lrt.InvalidValue):
        story_lm.generate(prompt, new)  # type: ignore[arg-type]


# -- vectors ------------------------------------------------------------------------------------------


def test_a_vector_is_the_difference_of_mean_last_states(story_lm: LanguageModel, prompts: Prompts) -> None:
    vector = vector_of(story_lm, prompts)
    states = [last_token_states(story_lm, side, LAYER) for side in prompts]
    torch.testing.assert_close(vector.direction, difference_of_means(*states), rtol=1e-4, atol=1e-5)
    assert (vector.layer, vector.model, vector.behaviour) == (LAYER, story_lm.spec.name, "french")
    assert lrt.extract_vector(story_lm, *prompts, layer=0.4).layer == LAYER  # 0.4 of 3 blocks


def test_the_unit_of_strength_is_the_median_norm_on_neutral_texts(
    story_lm: LanguageModel, prompts: Prompts, texts: list[str]
) -> None:
    vector = lrt.extract_vector(story_lm, *prompts, layer=LAYER, neutral_texts=texts[:5])
    norms = []
    for text in texts[:5]:
        tokens = torch.tensor([story_lm.tokenizer(text)["input_ids"]])
        norms.append(story_lm.hidden_states(tokens, [LAYER])[LAYER][0, 1:].norm(dim=-1))
    assert vector.residual_norm == pytest.approx(float(torch.cat(norms).median()), rel=1e-4)
    assert vector.residual_norm != pytest.approx(vector_of(story_lm, prompts).residual_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"positives": []}, "positives"),
        ({"negatives": "one text"}, "negatives"),
        ({"positives": ["a", 3]}, r"positives\[1\]"),
        ({"positives": None}, "positives"),
        ({"positives": ["Once"], "negatives": ["Once"]}, "zero"),
        ({"layer": 3}, "layer=3"),
        ({"layer": "auto"}, "layer=auto"),
        ({"neutral_texts": []}, "neutral_texts"),
    ],
)
def test_prompts_and_layers_that_make_no_vector_are_named(
    story_lm: LanguageModel, changed: dict[str, object], named: str
) -> None:
    given = {"positives": ["Il était"], "negatives": ["There was"], "layer": LAYER, **changed}
    with pytest.raises(lrt.InvalidValue, match=named):
        lrt.extract_vector(story_lm, **given)  # type: ignore[arg-type]


# -- maps ---------------------------------------------------------------------------------------------


def test_on_the_oracle_pair_a_transferred_vector_is_the_native_one(
    oracle: Oracle, fitted: lrt.FittedMap, prompts: Prompts
) -> None:
    assert fitted.fvu < 1e-6
    vector, native = vector_of(oracle.source, prompts), vector_of(oracle.target, prompts)
    result = fitted.transfer(vector)
    torch.testing.assert_close(result.vector.direction, native.direction, rtol=1e-3, atol=1e-3)
    assert (result.vector.model, result.vector.layer) == (oracle.target.spec.name, LAYER)
    assert result.vector.map is not None
    assert result.vector.map["from_model"] == oracle.source.spec.name
    assert result.vector.residual_norm == native.residual_norm  # one unit of strength
    assert native.residual_norm == pytest.approx(SCALE * vector.residual_norm, rel=1e-3)
    with lrt.steer(oracle.target, result.vector, strength=4):
        transferred = oracle.target.generate("Once", 8)
    with lrt.steer(oracle.target, native, strength=4):
        assert transferred == oracle.target.generate("Once", 8)


def test_on_the_oracle_pair_the_forecast_is_certain(
    oracle: Oracle, fitted: lrt.FittedMap, prompts: Prompts
) -> None:
    vector = vector_of(oracle.source, prompts)
    residual = fitted.residual_on(oracle.source, oracle.target, [*prompts[0], *prompts[1]])
    assert residual < 1e-6
    forecast = fitted.transfer(vector, residual_on_prompts=residual).forecast
    assert forecast.warnings == ()
    assert forecast.signal == pytest.approx(SCALE * vector.norm, rel=1e-3)
    assert forecast.signal_to_noise is not None
    assert forecast.signal_to_noise > 1000
    assert forecast.agreement_documents == pytest.approx(1, abs=1e-5)
    assert forecast.residual_on_prompts == residual


def shuffled(lm: LanguageModel) -> LanguageModel:
    """The model as it reads other text: its input embeddings change places."""
    model = copy.deepcopy(lm.model)
    order = torch.randperm(len(lm.tokenizer), generator=torch.Generator().manual_seed(0))
    model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data[order]
    return LanguageModel(ModelSpec("shuffled"), model, lm.tokenizer)


@pytest.mark.parametrize("null", ["untrained source", "shuffled text"])
def test_nulls_fail(oracle: Oracle, texts: list[str], prompts: Prompts, null: str) -> None:
    source = oracle.source
    source = tiny_llama(source.tokenizer, seed=5) if null == "untrained source" else shuffled(source)
    mapping = lrt.fit_map(source, oracle.target, texts, layers=(LAYER, LAYER), pool=4)
    assert mapping.fvu > 0.1  # of the oracle below 1e-6
    transferred = mapping.transfer(vector_of(source, prompts)).vector.direction
    assert cosine(transferred, vector_of(oracle.target, prompts).direction) < 0.98
    prompts_residual = mapping.residual_on(source, oracle.target, [*prompts[0], *prompts[1]])
    assert prompts_residual > 0.1


def test_a_vector_along_which_the_text_hardly_varies_is_warned_of(
    oracle: Oracle, texts: list[str], prompts: Prompts
) -> None:
    null = tiny_llama(oracle.source.tokenizer, seed=5)
    few = lrt.fit_map(null, oracle.target, texts[:150], layers=(2, 2), pool=16)
    generator = torch.Generator().manual_seed(0)
    noise = replace(
        lrt.extract_vector(null, *prompts, layer=2), direction=torch.randn(32, generator=generator)
    )
    result = few.transfer(noise, residual_on_prompts=0.9)
    assert result.forecast.signal_to_noise is not None
    assert result.forecast.signal_to_noise < 5
    assert len(result.forecast.warnings) == 2
    assert "2 warnings" in repr(result)


def test_a_map_does_not_depend_on_the_batches_and_reports_progress(
    oracle: Oracle, texts: list[str], fitted: lrt.FittedMap
) -> None:
    seen: list[tuple[int, int]] = []
    again = lrt.fit_map(
        oracle.source,
        oracle.target,
        iter(texts),
        layers=(0.4, 0.4),
        pool=4,
        batch_tokens=1024,
        progress=lambda done, total: seen.append((done, total)),
    )
    torch.testing.assert_close(
        again.mapping.affine.weight, fitted.mapping.affine.weight, rtol=1e-3, atol=1e-4
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(again.card["corpus"]["tokens"].values())
    assert again.card["rows"] == fitted.card["rows"]


def test_no_more_text_is_read_than_is_wanted(oracle: Oracle, texts: list[str]) -> None:
    source = iter([*texts, *texts])  # documents are read 256 at a time
    few = lrt.fit_map(oracle.source, oracle.target, source, layers=(1, 1), pool=2, tokens=2048, context=64)
    assert few.card["corpus"]["tokens"] == {"train": 2048, "validation": 256, "test": 256}
    assert [*source]


def test_the_fit_and_the_transfer_write_nothing(
    oracle: Oracle, texts: list[str], prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRT_CACHE", str(tmp_path / "cache"))
    mapping = lrt.fit_map(
        oracle.source, oracle.target, texts, layers=(1, 1), tokens=8192, context=128, pool=2
    )
    mapping.transfer(vector_of(oracle.source, prompts))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"texts": "one long text"}, "list of texts"),
        ({"texts": ["a", b"b"]}, r"texts\[1\]"),
        ({"texts": []}, "no document"),
        ({"layers": 1}, "layers=1"),
        ({"layers": (1, 2, 3)}, "pair"),
        ({"layers": (9, 1)}, r"layers\[0\]=9"),
        ({"layers": (1, "nearest")}, r"layers\[1\]=.nearest"),
        ({"layers": (1, 1.0)}, r"layers\[1\]=1.0"),
        ({"pool": 0}, "pool=0"),
        ({"pool": 1.5}, "pool=1.5"),
        ({"seed": "a"}, "seed='a'"),
        ({"folds": 2.5}, "folds=2.5"),
        ({"context": "256"}, "context='256'"),
        ({"context": None}, "context=None"),
        ({"loss": float("nan")}, "loss=nan"),
        ({"folds": 1}, "folds=1"),
        ({"tokens": 0}, "tokens=0"),
        ({"context": 1}, "context=1"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    oracle: Oracle, changed: dict[str, object], named: str
) -> None:
    given = {"texts": ["Once upon a time."] * 3, "layers": (1, 1), **changed}
    with pytest.raises(lrt.UserError, match=named):
        lrt.fit_map(oracle.source, oracle.target, **given)  # type: ignore[arg-type]


def test_too_few_texts_say_how_many_tokens_there_are_and_are_needed(oracle: Oracle, texts: list[str]) -> None:
    with pytest.raises(lrt.InvalidValue, match=r"\d+ tokens .* context=256"):
        lrt.fit_map(oracle.source, oracle.target, texts[:3], layers=(1, 1))
    with pytest.raises(lrt.InvalidValue, match=r"32 dimensions .* 2,048 training tokens"):
        lrt.fit_map(oracle.source, oracle.target, texts[:40], layers=(1, 1), context=16, pool=64)


def test_vectors_and_models_that_are_not_the_maps_are_refused(
    oracle: Oracle, fitted: lrt.FittedMap, prompts: Prompts
) -> None:
    vector = vector_of(oracle.source, prompts)
    for wrong in (
        replace(vector, model="another"),
        replace(vector, layer=2),
        replace(vector, direction=torch.ones(5)),
        replace(vector, direction=torch.zeros(32)),
    ):
        with pytest.raises(lrt.InvalidValue):
            fitted.transfer(wrong)
    with pytest.raises(lrt.InvalidValue, match="source"):
        fitted.residual_on(oracle.target, oracle.source, prompts[0])


def test_a_map_is_fitted_where_the_models_are(oracle: Oracle, texts: list[str], prompts: Prompts) -> None:
    settings: dict[str, Any] = {"layers": (LAYER, LAYER), "pool": 2, "tokens": 8192}
    vector = vector_of(oracle.source, prompts)
    here = lrt.fit_map(oracle.source, oracle.target, texts, **settings).transfer(vector)
    with pretend_cuda():
        models = []
        for lm in (oracle.source, oracle.target):
            models.append(LanguageModel(lm.spec, copy.deepcopy(lm.model).to("cuda:0"), lm.tokenizer))
        mapping = lrt.fit_map(*models, texts, **settings)
        there = mapping.transfer(lrt.extract_vector(models[0], *prompts, layer=LAYER, behaviour="french"))
        residual = mapping.residual_on(*models, [*prompts[0], *prompts[1]])
    torch.testing.assert_close(there.vector.direction, here.vector.direction, rtol=1e-4, atol=1e-5)
    assert there.forecast.agreement_documents == pytest.approx(here.forecast.agreement_documents)
    assert residual < 1e-6


def test_the_forecast_warns_where_the_shipped_config_does() -> None:
    analysis = yaml.safe_load((CONF / "train.yaml").read_text())["analysis"]
    assert analysis["signal_to_noise"] == LEAST_SIGNAL_TO_NOISE
    assert analysis["residual_on_prompts"] == MOST_RESIDUAL


# -- files --------------------------------------------------------------------------------------------


def test_a_saved_map_transfers_and_forecasts_the_same(
    fitted: lrt.FittedMap, oracle: Oracle, prompts: Prompts, tmp_path: Path
) -> None:
    fitted.save(str(tmp_path / "map"))
    loaded = lrt.load_map(str(tmp_path / "map"))
    vector = vector_of(oracle.source, prompts)
    one, other = fitted.transfer(vector), loaded.transfer(vector)
    assert torch.equal(one.vector.direction, other.vector.direction)
    assert one.forecast == other.forecast
    for each in fields(one.vector):
        if each.name != "direction":
            assert getattr(one.vector, each.name) == getattr(other.vector, each.name)
    assert repr(fitted) == repr(loaded)
    stated = json.loads((tmp_path / "map" / "mapping.json").read_text())["card"]["sums"]["bytes"]
    assert stated == fitted.sums_bytes <= (tmp_path / "map" / "sums.safetensors").stat().st_size

    loaded.save(tmp_path / "map", sums=False)
    assert sorted(file.name for file in (tmp_path / "map").iterdir()) == [
        "README.md",
        "mapping.json",
        "mapping.safetensors",
    ]
    bare = lrt.load_map(tmp_path / "map").transfer(vector)
    assert torch.equal(bare.vector.direction, one.vector.direction)
    assert bare.forecast.signal_to_noise is None
    assert len(bare.forecast.warnings) == 1


def test_a_damaged_or_foreign_folder_is_no_map(fitted: lrt.FittedMap, tmp_path: Path) -> None:
    with pytest.raises(MapMissing):
        lrt.load_map(tmp_path / "nowhere")
    fitted.save(tmp_path / "map")
    sums = tmp_path / "map" / "sums.safetensors"
    whole = bytearray(sums.read_bytes())
    flipped = whole.copy()
    flipped[-5] ^= 1
    for damaged in (flipped, whole[:-9], b""):
        sums.write_bytes(damaged)
        with pytest.raises(MapCorrupt, match="sums"):
            lrt.load_map(tmp_path / "map")
    sums.unlink()
    with pytest.raises(MapCorrupt, match="sums"):
        lrt.load_map(tmp_path / "map")
    for card in ({}, {"layers": {}}, {**fitted.card, "layers": 3}, {**fitted.card, "residual_norms": []}):
        save_map(tmp_path / "other", fitted.mapping.affine, card)
        with pytest.raises(MapError, match=r"lrt\.fit_map"):
            lrt.load_map(tmp_path / "other")


def test_objects_print_one_line(fitted: lrt.FittedMap, oracle: Oracle, prompts: Prompts) -> None:
    result = fitted.transfer(vector_of(oracle.source, prompts))
    for each in (fitted, result, result.vector, result.forecast, oracle.source):
        assert "\n" not in repr(each)
        assert "tensor" not in repr(each)
    assert f"layer {LAYER}" in repr(fitted)
    assert "no warning" in repr(result)


def test_a_vector_is_saved_and_loaded_by_a_path_as_text(
    oracle: Oracle, prompts: Prompts, tmp_path: Path
) -> None:
    vector = vector_of(oracle.source, prompts)
    vector.save(str(tmp_path / "v"))
    loaded = lrt.SteeringVector.load(str(tmp_path / "v"))
    assert torch.equal(loaded.direction, vector.direction)
    assert repr(loaded) == repr(vector)


@pytest.mark.parametrize("memory_gb", [float("nan"), "24"])
def test_a_limit_of_memory_is_a_number(oracle: Oracle, texts: list[str], memory_gb: Any) -> None:
    with pytest.raises(lrt.InvalidValue, match="memory_gb"):
        lrt.fit_map(oracle.source, oracle.target, texts, layers=(LAYER, LAYER), memory_gb=memory_gb)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("residual_norms", [-1.0]), ("corpus", 3), ("depth", "x"), ("name", 3), ("weight", -1.0)],
)
def test_a_card_of_something_else_is_refused(
    fitted: lrt.FittedMap, tmp_path: Path, entry: str, value: object
) -> None:
    card = json.loads(json.dumps(dict(fitted.card)))
    if entry == "weight":
        card["metrics"]["ridge_weight"] = value
    elif entry in card:
        card[entry] = value
    else:
        card["models"]["source"][entry] = value
    save_map(tmp_path / "map", fitted.mapping.affine, card)
    with pytest.raises(MapForeign):
        lrt.load_map(tmp_path / "map")


def test_documents_are_left_out_by_the_sums_of_their_groups(
    oracle: Oracle, texts: list[str], prompts: Prompts
) -> None:
    """The map without them is the one fitted on the other groups, and still the exact one of this pair."""
    mapping = lrt.fit_map(oracle.source, oracle.target, texts, layers=(1, 1), folds=20)
    rest = mapping.without(texts[:2])
    groups = {text_id(text) % 20 for text in texts[:2]}
    assert rest.card["without"]["groups"] == sorted(groups)
    assert len(rest.folds) == 20 - len(groups)
    left = [fold.count for n, fold in enumerate(mapping.folds) if n not in groups]
    assert rest.card["rows"]["train"] == sum(left)
    vector = vector_of(oracle.source, prompts)
    exact = rest.transfer(vector)
    assert cosine(exact.vector.direction, mapping.transfer(vector).vector.direction) > 0.999
    assert exact.vector.map != mapping.transfer(vector).vector.map
    assert rest.fvu < 1e-3
    with pytest.raises(lrt.UserError, match="groups"):
        mapping.without(texts)
    with pytest.raises(lrt.UserError, match="0 of"):
        mapping.without([])
    with pytest.raises(lrt.UserError, match="sums"):
        rest.without(texts[:1])
