"""A baked checkpoint, loaded by plain transformers, says what the model says while it is steered by hooks."""

import json
import re
from pathlib import Path

import pytest
import torch
from models.every_family import build
from models.model_families import WIDTH, hooks_in_force, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lrt import bake, load, steer
from lrt.errors import InvalidValue
from lrt.models import LanguageModel, ModelSpec
from lrt.steering import CannotBake, SteeringVector

STRENGTH = 0.4
TEXT = torch.arange(5, 45)[None]  # longer than a sliding window, and than what baking itself compares


@pytest.fixture
def vectors() -> list[SteeringVector]:
    generator = torch.Generator().manual_seed(0)
    return [SteeringVector(torch.randn(WIDTH, generator=generator), layer, "tiny", 3.0) for layer in (1, 3)]


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TEXT).logits


def steered(lm: LanguageModel, vectors: list[SteeringVector]) -> Tensor:
    with steer(lm, vectors[0], STRENGTH):
        if len(vectors) == 1:
            return logits(lm.model)
        with steer(lm, vectors[1], STRENGTH):
            return logits(lm.model)


# where the vector goes: the last linear, that of the experts, of a parallel block's attention, the last norm
BAKED = {
    "gpt2": ("mlp.c_proj.bias", "gpt2"),
    "bloom": ("mlp.dense_4h_to_h.bias", "bloom"),
    "llama": ("mlp.down_proj.bias", "llama"),
    "falcon": ("mlp.dense_4h_to_h.bias", "falcon"),
    "qwen2": ("mlp.down_proj.bias", "llama"),
}
OTHERS_BAKED = {
    "gpt_oss": ("mlp.experts.down_proj_bias", "gpt_oss"),
    "cohere": ("self_attn.o_proj.bias", "cohere"),
    "bert": ("output.LayerNorm.bias", "bert"),
    "internlm3": ("mlp.down_proj.bias", "internlm3"),
    "mamba": ("mixer.out_proj.bias", "mamba"),
    "starcoder2": ("mlp.c_proj.bias", "starcoder2"),
    "zamba2": ("mamba.out_proj.bias", "zamba2"),
}


@pytest.mark.parametrize("family", BAKED)
def test_plain_transformers_gives_the_logits_of_steering(
    family: str, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    compare(tiny(family), vectors, tmp_path / "baked", *BAKED[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS_BAKED)
def test_of_any_family(family: str, vectors: list[SteeringVector], tmp_path: Path) -> None:
    lm = LanguageModel(ModelSpec(f"tiny/{family}"), build(family))
    compare(lm, vectors, tmp_path / "baked", *OTHERS_BAKED[family])


def compare(
    lm: LanguageModel, vectors: list[SteeringVector], folder: Path, place: str, architecture: str
) -> None:
    plain, hooks = logits(lm.model), hooks_in_force(lm)
    baked = bake(lm, vectors, folder, strength=STRENGTH)
    expected = steered(lm, vectors)
    assert (expected - plain).abs().max() > 0.02
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert baked.error <= 1e-4
    assert [*baked.biases] == [1, 3]
    assert all(name.endswith(place) for name in baked.biases.values())
    assert json.loads((folder / "config.json").read_text())["model_type"] == architecture
    # the model itself is as before
    assert torch.equal(logits(lm.model), plain)
    assert hooks_in_force(lm) == hooks


# a norm follows the last linear, no bias can be had, a Llama has no sliding window
@pytest.mark.parametrize("family", ["gemma2", "qwen3", "mistral", "mixtral"])
def test_an_architecture_without_such_a_bias_is_refused(
    family: str, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    with pytest.raises(CannotBake, match="write_vectors"):
        bake(tiny(family), vectors, tmp_path / "baked", strength=STRENGTH)
    assert not [*tmp_path.iterdir()]


def test_a_bias_that_the_model_has_already_is_added_to(vectors: list[SteeringVector], tmp_path: Path) -> None:
    lm = tiny("gpt2")
    bias = lm.model.transformer.h[1].mlp.c_proj.bias
    bias.data = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    bake(lm, vectors[0], tmp_path / "baked", strength=STRENGTH)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "baked", dtype=torch.float32)
    torch.testing.assert_close(logits(model), steered(lm, vectors[:1]), atol=1e-4, rtol=1e-4)


def test_a_vector_far_shorter_than_the_states_finds_its_bias_too(tmp_path: Path) -> None:
    short = SteeringVector(torch.ones(WIDTH), 1, "tiny", 1e-5)
    baked = bake(tiny("llama"), short, tmp_path / "baked", strength=STRENGTH)
    assert baked.biases == {1: "model.layers.1.mlp.down_proj.bias"}


def test_in_bfloat16(tmp_path: Path) -> None:
    lm = tiny("llama")
    lm.model.bfloat16()
    long = SteeringVector(torch.ones(WIDTH), 1, "tiny", 60.0)  # rounding is small beside what it changes
    bake(lm, long, tmp_path / "baked", strength=STRENGTH)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    assert model.dtype is torch.bfloat16
    change = steered(lm, [long]) - logits(lm.model)
    assert (logits(model) - logits(lm.model) - change).norm() < 0.05 * change.norm()


def test_tokenizer_and_card_lie_beside_the_weights(story_lm: LanguageModel, tmp_path: Path) -> None:
    vector = SteeringVector(torch.ones(story_lm.width), 1, "tiny", 2.0, behaviour="french")
    bake(story_lm, vector, tmp_path / "baked", strength=-STRENGTH)
    text = "Once there was a dog."
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "baked")
    assert tokenizer(text)["input_ids"] == story_lm.tokenizer(text)["input_ids"]
    card = json.loads((tmp_path / "baked" / "baked.json").read_text())
    assert (card["vectors"][0]["strength"], card["vectors"][0]["behaviour"]) == (-STRENGTH, "french")
    assert card["vectors"][0]["bias"] == "model.layers.1.mlp.down_proj.bias"


def test_a_model_baked_twice_lists_both_vectors(story_lm: LanguageModel, tmp_path: Path) -> None:
    for number, strength in enumerate((0.2, 0.3)):
        lm = load(tmp_path / "0") if number else story_lm
        vector = SteeringVector(torch.ones(lm.width), number, "tiny", 2.0, behaviour=f"of {number}")
        bake(lm, vector, tmp_path / str(number), strength=strength)
    card = json.loads((tmp_path / "1" / "baked.json").read_text())
    assert [(v["behaviour"], v["strength"]) for v in card["vectors"]] == [("of 0", 0.2), ("of 1", 0.3)]


def test_a_model_that_is_steered_by_hooks_is_not_baked(vectors: list[SteeringVector], tmp_path: Path) -> None:
    lm = tiny("llama")
    with steer(lm, vectors[0], STRENGTH), pytest.raises(InvalidValue, match="hooks"):
        bake(lm, vectors[1], tmp_path / "baked", strength=STRENGTH)
    assert not [*tmp_path.iterdir()]


def test_what_baking_cannot_say_is_refused_before_anything_is_written(
    story_lm: LanguageModel, tmp_path: Path
) -> None:
    width = story_lm.width
    fine = SteeringVector(torch.ones(width), 1, "tiny", 2.0)
    wrong = {
        "width": SteeringVector(torch.ones(width + 1), 1, "tiny", 2.0),
        "layer": SteeringVector(torch.ones(width), 99, "tiny", 2.0),
        "operation": SteeringVector(torch.ones(width), 1, "tiny", 2.0, operation="ablate"),
        "residual_norm": SteeringVector(torch.ones(width), 1, "tiny", 0.0),
    }
    for name, vector in wrong.items():
        with pytest.raises(InvalidValue, match=name):
            bake(story_lm, vector, tmp_path / "baked", strength=STRENGTH)
    with pytest.raises(InvalidValue, match="strength"):
        bake(story_lm, fine, tmp_path / "baked", strength=float("nan"))
    assert not [*tmp_path.iterdir()]
    (tmp_path / "mine.txt").touch()
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InvalidValue, match="not an empty folder"):
            bake(story_lm, fine, taken, strength=STRENGTH)
    with pytest.raises(InvalidValue, match="is a file"):
        bake(story_lm, fine, tmp_path / "mine.txt" / "baked", strength=STRENGTH)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_the_page_s_example_runs(
    story_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    _, example = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    story_lm.model.save_pretrained(tmp_path / "path" / "to" / "large")
    story_lm.tokenizer.save_pretrained(tmp_path / "path" / "to" / "large")
    monkeypatch.chdir(tmp_path)
    exec(example, {"french": SteeringVector(torch.ones(story_lm.width), 1, "large", 2.0)})
    assert AutoModelForCausalLM.from_pretrained("large-french").num_parameters() > 0
