import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.lab.grammar import ASSISTANT, USER
from lrt.models import LanguageModel
from lrt.steering import (
    SteeringVector,
    VectorUnreadable,
    difference_of_means,
    last_token_states,
    prompts_digest,
)
from lrt.storage.sealed import sealed

TEXTS = [
    "One morning, Mia walked to the barn.",
    "A",
    f"{USER}How do I visit the baker?{ASSISTANT}",
    "Un matin, Marie alla vers le port. Le vent était doux.",
    "IT WAS A WONDERFUL DAY. ON MONDAY, MIA WENT TO THE HARBOUR.",
    "The dog",
]


def made() -> SteeringVector:
    direction = torch.randn(6, generator=torch.Generator().manual_seed(0))
    return SteeringVector(
        direction, 2, "tiny", 3.5, "french", prompts="abc", map={"fingerprint": "f", "from_layer": 1}
    )


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("batch_tokens", [1, 24, 8192])
def test_last_token_states_equal_one_text_at_a_time(
    story_lm: LanguageModel, layer: int, batch_tokens: int
) -> None:
    together = last_token_states(story_lm, TEXTS, layer, batch_tokens)
    assert together.shape == (len(TEXTS), story_lm.width)
    for text, state in zip(TEXTS, together, strict=True):
        ids = torch.tensor([story_lm.tokenizer(text)["input_ids"]])
        alone = story_lm.hidden_states(ids, [layer])[layer][0, -1]
        torch.testing.assert_close(state, alone, rtol=1e-4, atol=1e-5)


def test_difference_of_means_is_float64_inside() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(5000, 4, generator=generator) + 1000 for _ in range(2))
    exact = a.double().mean(0) - b.double().mean(0)
    assert torch.equal(difference_of_means(a, b), exact.float())
    assert torch.equal(difference_of_means(a, a), torch.zeros(4))


def test_length_direction_and_scale() -> None:
    vector = SteeringVector(torch.tensor([3.0, 4.0]), 0, "m", 10.0)
    assert vector.norm == 5
    torch.testing.assert_close(vector.unit_direction, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(vector.scaled(), torch.tensor([6.0, 8.0]))


def test_invalid_vectors_are_refused() -> None:
    good = {"direction": torch.ones(3), "layer": 0, "model": "m", "residual_norm": 1.0}
    SteeringVector(**good)  # type: ignore[arg-type]
    for name, value in (
        ("direction", torch.zeros(2, 3)),
        ("direction", torch.tensor([1.0, float("nan")])),
        ("direction", torch.tensor([1, 2])),
        ("direction", torch.tensor([1, 2j])),
        ("direction", torch.tensor([True])),
        ("layer", -1),
        ("layer", True),
        ("residual_norm", math.inf),
        ("model", 3),
        ("map", []),
    ):
        with pytest.raises(InvalidValue):
            SteeringVector(**{**good, name: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="'mood'"):
        SteeringVector(torch.zeros(3), 0, "m", 1.0, "mood").scaled()


def test_the_repr_is_one_readable_line() -> None:
    native = SteeringVector(torch.tensor([3.0, 4.0]), 2, "large", 3.5, "french")
    assert repr(native) == (
        "SteeringVector('french', large layer 2, norm 5, difference of means, last token)"
    )
    transferred = replace(native, map={"from_model": "small", "from_layers": [1, 3]})
    assert repr(transferred).endswith("transferred from small layer 1, 3)")


def test_saved_and_read_back(tmp_path: Path) -> None:
    vector = made()
    vector.save(tmp_path / "deep" / "v")
    back = SteeringVector.load(tmp_path / "deep" / "v")
    assert torch.equal(back.direction, vector.direction)
    card = json.loads((tmp_path / "deep" / "v" / "vector.json").read_text())
    for name in ("layer", "model", "residual_norm", "behaviour", "prompts", "map", "method", "unit"):
        assert getattr(back, name) == getattr(vector, name) == card["vector"][name]
    assert card["vector"]["norm"] == pytest.approx(vector.norm)
    assert "residual stream" in card["vector"]["hook_point"]


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    def refused(file: Path) -> None:
        with pytest.raises(VectorUnreadable) as caught:
            SteeringVector.load(tmp_path)
        assert str(file) in str(caught.value)

    refused(tmp_path)  # empty
    made().save(tmp_path)
    file, card_file = tmp_path / "vector.safetensors", tmp_path / "vector.json"
    whole, card = file.read_bytes(), json.loads(card_file.read_text())
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged in (whole[:-4], bytes(flipped)):
        file.write_bytes(damaged)
        refused(file)
    file.unlink()
    refused(file)
    file.write_bytes(whole)
    vector = card["vector"]
    without = {name: value for name, value in vector.items() if name != "layer"}
    for content in (
        "{",
        "[]",
        "{}",
        sealed({"format": "another"}),
        json.dumps({**card, "vector": {**vector, "layer": 7}}),  # altered
        sealed({**card, "version": 99}),
        sealed({**card, "vector": without}),
    ):
        card_file.write_text(content)
        refused(card_file)
    card_file.write_text(sealed({**card, "vector": {**vector, "layer": -1}}))
    refused(file)


def test_digest_tells_sides_and_order_apart() -> None:
    assert prompts_digest(["a"], ["b"]) == prompts_digest(["a"], ["b"])
    others = {prompts_digest(["b"], ["a"]), prompts_digest(["a", "b"], []), prompts_digest(["ab"], [""])}
    assert len(others | {prompts_digest(["a"], ["b"])}) == 4


def test_states_that_overflow_are_no_vector(story_lm: LanguageModel) -> None:
    lm = LanguageModel(story_lm.spec, copy.deepcopy(story_lm.model).half(), story_lm.tokenizer)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(1e7)
    with pytest.raises(InvalidValue, match="float16"):
        last_token_states(lm, ["a cat", "a dog"], 1)


def test_a_vector_of_another_hook_point_is_refused() -> None:
    with pytest.raises(InvalidValue, match="hook_point='resid_pre'"):
        replace(made(), hook_point="resid_pre")
