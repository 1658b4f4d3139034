"""Each format against the package that defines it: what it reads of ours, what we read of its own, and the
logits of its own steering beside ours. `make test-packages` installs them and runs this; a package that is
not installed is skipped."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from storybook_models import tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lrt.models import LanguageModel, ModelSpec
from lrt.steering import SteeringVector, steer
from lrt.steering.formats import (
    entries_of_prompts,
    from_repeng,
    from_steering_vectors,
    prompts_of_entries,
    read_vector,
    to_repeng,
    to_steering_vectors,
    write_vectors,
)

pytestmark = pytest.mark.packages

STRENGTH = 0.4
TOKENS = torch.arange(20, 50)[None]  # one row: repeng 0.4.0 has no mask for several under transformers 5


@pytest.fixture
def lm(family_tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    return tiny_llama(family_tokenizer)


@pytest.fixture
def repeng(monkeypatch: pytest.MonkeyPatch) -> Any:
    # repeng 0.4.0 names a type that numpy 2 removed
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return pytest.importorskip("repeng")


@pytest.fixture
def vectors() -> list[SteeringVector]:
    generator = torch.Generator().manual_seed(0)
    return [SteeringVector(torch.randn(32, generator=generator), layer, "tiny-32", 3.0) for layer in (1, 2)]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def ours(lm: LanguageModel, vectors: list[SteeringVector], strength: float) -> Tensor:
    """Logits with all the vectors added; they must move for a comparison to mean anything."""
    plain = logits(lm.model)
    with steer(lm, vectors[0], strength):
        if len(vectors) == 1:
            steered = logits(lm.model)
        else:
            with steer(lm, vectors[1], strength):
                steered = logits(lm.model)
    assert (steered - plain).abs().max() > 0.1
    return steered


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def alike(read: list[SteeringVector], vectors: list[SteeringVector], strength: float = 1.0) -> None:
    assert [vector.layer for vector in read] == [vector.layer for vector in vectors]
    for one, other in zip(read, vectors, strict=True):
        torch.testing.assert_close(one.scaled(), strength * other.scaled())


def test_steering_vectors(lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path) -> None:
    package = pytest.importorskip("steering_vectors")
    theirs = to_steering_vectors(vectors)
    with theirs.apply(lm.model, multiplier=STRENGTH):
        steered = logits(lm.model)
    same(ours(lm, vectors, STRENGTH), steered)
    alike(from_steering_vectors(theirs, model="tiny-32"), vectors)
    # our file, by its constructor; its own objects, saved by torch
    file = tmp_path / "v.pt"
    write_vectors(vectors, file, "steering-vectors")
    again = package.SteeringVector(**torch.load(file, weights_only=True))
    assert again.layer_activations.keys() == theirs.layer_activations.keys()
    torch.save(theirs, file)
    alike(read_vector(file, "steering-vectors", model="tiny-32"), vectors)


def test_a_vector_that_steering_vectors_trained(lm: LanguageModel, tmp_path: Path) -> None:
    package = pytest.importorskip("steering_vectors")
    pairs = [("Once there was a dog", "Once there was a cat"), ("A happy boy", "A sad boy")]
    theirs = package.train_steering_vector(lm.model, lm.tokenizer, pairs, layers=[1], move_to_cpu=True)
    torch.save(theirs, tmp_path / "v.pt")
    (vector,) = read_vector(tmp_path / "v.pt", "steering-vectors", model="tiny-32")
    with theirs.apply(lm.model, multiplier=3.0):
        expected = logits(lm.model)
    same(ours(lm, [vector], 3.0), expected)


def test_repeng(lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path, repeng: Any) -> None:
    theirs = to_repeng(vectors, "llama")
    alike(from_repeng(theirs, model="tiny-32"), vectors)
    expected = ours(lm, vectors, STRENGTH)
    wrapped = repeng.ControlModel(lm.model, [1, 2])
    wrapped.set_control(theirs, STRENGTH)
    same(logits(wrapped), expected)
    # its files are control vectors: ours read by it, its own read by us
    write_vectors(vectors, tmp_path / "ours.gguf")
    wrapped.set_control(repeng.ControlVector.import_gguf(tmp_path / "ours.gguf"), STRENGTH)
    same(logits(wrapped), expected)
    theirs.export_gguf(tmp_path / "theirs.gguf")
    alike(read_vector(tmp_path / "theirs.gguf", model="tiny-32"), vectors)


def test_repeng_reads_a_layer_where_we_add_it(lm: LanguageModel, repeng: Any) -> None:
    """Its direction of a block is of that block's output: the hidden states it reads there are ours."""
    entries = entries_of_prompts(["a dog ran", "a big dog"], ["a cat ran", "a big cat"])
    assert prompts_of_entries(entries) == (["a dog ran", "a big dog"], ["a cat ran", "a big cat"])
    (vector,) = from_repeng(
        repeng.ControlVector.train(lm.model, lm.tokenizer, entries, hidden_layers=[1], method="pca_diff"),
        model="tiny-32",
    )
    texts = lm.tokenizer([each for e in entries for each in (e.positive, e.negative)])["input_ids"]
    states = [lm.hidden_states(torch.tensor([row]), [1], torch.ones(1, len(row)))[1][0, -1] for row in texts]
    differences = torch.stack([states[0] - states[1], states[2] - states[3]]).numpy()
    differences = differences - differences.mean(axis=0)
    direction = np.linalg.svd(differences, full_matrices=False)[2][0]
    assert vector.layer == 1
    assert abs(float(vector.unit_direction.numpy() @ direction)) == pytest.approx(1, abs=1e-4)


def test_a_vector_that_repeng_trained(lm: LanguageModel, tmp_path: Path, repeng: Any) -> None:
    """Read from its file, it steers as it does there; written again by us, repeng reads the same."""
    entries = entries_of_prompts(["a dog ran", "a big dog", "the dog"], ["a cat ran", "a big cat", "the cat"])
    theirs = repeng.ControlVector.train(lm.model, lm.tokenizer, entries, hidden_layers=[1])
    theirs.export_gguf(tmp_path / "theirs.gguf")
    (vector,) = read_vector(tmp_path / "theirs.gguf", model="tiny-32", convention="block")
    expected = ours(lm, [vector], 3.0)
    write_vectors(vector, tmp_path / "ours.gguf")
    wrapped = repeng.ControlModel(lm.model, [1])
    for control in (theirs, repeng.ControlVector.import_gguf(tmp_path / "ours.gguf")):
        wrapped.set_control(control, 3.0)
        same(logits(wrapped), expected)


@pytest.fixture
def saved(lm: LanguageModel, tmp_path: Path) -> Path:
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_lm_eval(saved: Path, vectors: list[SteeringVector], tmp_path: Path) -> None:
    steered = pytest.importorskip("lm_eval.models.hf_steered")
    file = tmp_path / "v.pt"
    write_vectors(vectors, file, "lm-eval", strength=-STRENGTH, blocks="layers")
    theirs = steered.SteeredModel(str(saved), str(file), device="cpu", dtype="float32")
    lm = LanguageModel(ModelSpec(path="tiny-32"), AutoModelForCausalLM.from_pretrained(saved), None)
    expected = ours(lm, vectors, -STRENGTH)
    same(theirs.forward(TOKENS).logits, expected)
    read = read_vector(file, "lm-eval", model="tiny-32")
    alike(read, vectors, -STRENGTH)
    same(ours(lm, read, 1.0), expected)


TASK = """
task: stories
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: [" happy", " sad", " hungry"]
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def test_an_evaluation_of_lm_eval(
    saved: Path, lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    """`lm_eval --model steered` on a task of one's own: each answer has the likelihood that we compute."""
    harness = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    texts = ["Once there was a dog, who was", "The boy saw the cat and was"]
    rows = "\n".join(json.dumps({"text": text, "answer": 1}) for text in texts)
    (tmp_path / "stories.jsonl").write_text(rows)
    (tmp_path / "stories.yaml").write_text(TASK.format(data=tmp_path / "stories.jsonl"))
    write_vectors(vectors, tmp_path / "v.pt", "lm-eval", strength=STRENGTH, blocks="layers")
    results = harness.simple_evaluate(
        model="steered",
        model_args={"pretrained": str(saved), "steer_path": str(tmp_path / "v.pt"), "dtype": "float32"},
        tasks=["stories"],
        task_manager=tasks.TaskManager(include_path=str(tmp_path)),
        device="cpu",
        batch_size=1,
        log_samples=True,
        bootstrap_iters=0,
    )
    for sample, text in zip(results["samples"]["stories"], texts, strict=True):
        theirs = [float(response[0][0]) for response in sample["resps"]]
        expected, plain = (
            [likelihood(lm, vectors, strength, text, answer) for answer in (" happy", " sad", " hungry")]
            for strength in (STRENGTH, 0.0)
        )
        assert theirs == pytest.approx(expected, abs=1e-4)
        assert theirs != pytest.approx(plain, abs=1e-2)


def likelihood(
    lm: LanguageModel, vectors: list[SteeringVector], strength: float, text: str, answer: str
) -> float:
    """Log likelihood of the answer after the text."""
    before, whole = (lm.tokenizer(each)["input_ids"] for each in (text, text + answer))
    assert whole[: len(before)] == before
    with steer(lm, vectors[0], strength), steer(lm, vectors[1], strength), torch.no_grad():
        scores = lm.model(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
    return sum(float(scores[i - 1, whole[i]]) for i in range(len(before), len(whole)))


def test_saklas(vectors: list[SteeringVector], tmp_path: Path) -> None:
    """Its files: control vectors, and its own profile, whose tensors are named `layer_N`."""
    package = pytest.importorskip("saklas.io.gguf_io")
    profile = pytest.importorskip("saklas.core.profile")
    write_vectors(vectors, tmp_path / "ours.gguf")
    read, _ = package.read_gguf_profile(tmp_path / "ours.gguf")
    assert {layer: pytest.approx(d.numpy()) for layer, d in read.items()} == {
        vector.layer: vector.scaled().numpy() for vector in vectors
    }
    theirs = {vector.layer: vector.scaled() for vector in vectors}
    package.write_gguf_profile(theirs, tmp_path / "theirs.gguf", model_hint="llama")
    alike(read_vector(tmp_path / "theirs.gguf", model="tiny-32"), vectors)
    profile.save_profile(theirs, tmp_path / "theirs.safetensors", {"method": "profile"})
    alike(
        read_vector(
            tmp_path / "theirs.safetensors",
            model="tiny-32",
            layer="layer_{}",
            hook_point="block output",
            residual_norm="stored",
        ),
        vectors,
    )


def test_hotwire(lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path) -> None:
    state = pytest.importorskip("hotwire._state")
    write_vectors(vectors, tmp_path / "french.pt", "hotwire", depth=3)
    (tmp_path / "norms.json").write_text(json.dumps({"1": 4.0, "2": 5.0}))
    server = state.SteerState(3, 32, 64, torch.device("cpu"), torch.float32, 4)
    server.load_store(str(tmp_path / "french.pt"))
    server.load_h_norms(str(tmp_path / "norms.json"))
    for vector in vectors:
        slot = server.slot_for("french", vector.layer, STRENGTH)
        torch.testing.assert_close(
            server.bank.scales[slot] * server.bank.bank[slot], STRENGTH * vector.scaled()
        )
    alike(read_vector(tmp_path / "french.pt", "hotwire", model="tiny-32"), vectors)
    normed = read_vector(tmp_path / "french.pt", "hotwire", model="m", norms=tmp_path / "norms.json")
    assert {vector.layer: vector.residual_norm for vector in normed} == server.h_norms
    # its kernel adds scale times row to the rows of a block's output
    block = lm.model.model.layers[1]
    row = server.bank.bank[server.slot_for("french", 1, STRENGTH)]
    handle = block.register_forward_hook(lambda _module, _args, output: output + STRENGTH * row)
    expected = logits(lm.model)
    handle.remove()
    same(ours(lm, vectors[:1], STRENGTH), expected)


def test_the_page_s_conversions_run(repeng: Any) -> None:
    pytest.importorskip("steering_vectors")
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    (example,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    french = SteeringVector(torch.ones(8), 4, "large", 2.0)
    names: dict[str, Any] = {"french": french, "dataset": [repeng.DatasetEntry("yes", "no")]}
    exec(example, names)
    alike([names["ours"]], [french])
    assert (names["positives"], names["negatives"]) == (["yes"], ["no"])
