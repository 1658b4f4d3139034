"""Models that do not fit one device: here spread over the CPU's memory and the disk, from which accelerate
fetches a block's weights when it runs. Combined GPUs are not to be had in a test."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
import torch
from accelerate import dispatch_model
from model_families import DEPTH, FEW, SEQUENCES, Add
from pretend_devices import pretend_cuda
from transformers import AutoModelForCausalLM

from lrt.errors import InvalidValue
from lrt.models import (
    LanguageModel,
    ModelNotLoadable,
    ModelSpec,
    Sampling,
    compute_prefix,
    generate,
    identity,
    load,
    loading,
    pad,
    tail_logits,
)
from lrt.models.blocks import find_blocks
from lrt.models.hooks import float32_head
from lrt.models.spec import DeviceMap

TOKENS, MASK = pad(SEQUENCES)


def spread(
    lm: LanguageModel, folder: Path, on_disk: Callable[[str], bool], dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """The same model from a checkpoint, with the named modules on the disk and the others in memory."""
    lm.model.save_pretrained(folder)
    places: dict[str, str] = {}

    def place(module: Any, path: str) -> None:
        for name, child in module.named_children():
            where = f"{path}{name}"
            # blocks are not cut
            if any(child is block for block in lm.blocks) or not [*child.children()]:
                places[where] = "disk" if on_disk(where) else "cpu"
            else:
                place(child, f"{where}.")

    place(lm.model, "")
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, dtype=dtype, offload_folder=folder / "offload"
    )
    return LanguageModel(lm.spec, model)


@pytest.mark.parametrize("family", FEW)
def test_a_spread_model_is_read_and_steered_as_a_whole_one(
    family: str, lm_of: Callable[[str], LanguageModel], add: Callable[..., Add], tmp_path: Path
) -> None:
    whole = lm_of(family)
    parts = spread(whole, tmp_path, lambda name: name.endswith((".1", ".2")))
    assert {weight.is_meta for weight in parts.blocks[1].parameters()} == {True}  # it is not in memory
    assert {weight.is_meta for weight in parts.blocks[0].parameters()} == {False}
    assert parts.device == torch.device("cpu")

    layers = range(DEPTH)
    found, expected = (lm.hidden_states(TOKENS, layers, MASK) for lm in (parts, whole))
    assert all(torch.equal(found[layer], expected[layer]) for layer in layers)

    rows = torch.tensor([0, 1, 2, 0])
    for layer in (0, 1, 2):
        edit = add(layer, 1.0, 0.5, -1.0)
        assert torch.equal(parts.logits(TOKENS, MASK, [edit]), whole.logits(TOKENS, MASK, [edit]))
        each = add(layer, 1.0, 0.5, -1.0, 0.0)
        prefixes = [compute_prefix(lm, TOKENS, MASK, layer) for lm in (parts, whole)]
        tails, texts = [], []
        for lm, prefix in zip((parts, whole), prefixes, strict=True):
            tails.append(tail_logits(lm, prefix, rows, each))
            texts.append(generate(lm, prefix, rows, each, max_new_tokens=4))
        assert torch.equal(*tails)
        assert torch.equal(*texts)
    # what was fetched has been let go
    assert {weight.is_meta for weight in parts.blocks[1].parameters()} == {True}


def test_embeddings_on_the_disk_can_be_read(lm_of: Callable[[str], LanguageModel], tmp_path: Path) -> None:
    whole = lm_of("llama")
    parts = spread(whole, tmp_path, lambda name: "embed" in name)
    assert parts.model.get_input_embeddings().weight.is_meta
    assert torch.equal(parts.embeddings, whole.embeddings)
    assert torch.equal(parts.logits(TOKENS, MASK), whole.logits(TOKENS, MASK))


def test_a_head_on_the_disk_answers_in_float32_too(
    lm_of: Callable[[str], LanguageModel], tmp_path: Path
) -> None:
    parts = spread(lm_of("llama"), tmp_path, lambda name: name == "lm_head", torch.bfloat16)
    in_memory = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    whole = LanguageModel(parts.spec, in_memory)
    assert parts.model.get_output_embeddings().weight.is_meta
    assert torch.equal(parts.logits(TOKENS, MASK), whole.logits(TOKENS, MASK))
    with float32_head(parts), float32_head(whole):
        found, expected = (lm.logits(TOKENS, MASK) for lm in (parts, whole))
    assert torch.equal(found, expected)
    assert not torch.equal(found, whole.logits(TOKENS, MASK))
    assert parts.model.get_output_embeddings().weight.is_meta


@pytest.mark.parametrize("device_map", get_args(DeviceMap))
@pytest.mark.parametrize("weights", ["trained", "random"])
def test_a_spec_asks_for_it_and_is_still_the_same_model(
    checkpoint: Path, device_map: Any, weights: Any
) -> None:
    plain = ModelSpec(str(checkpoint), weights=weights, dtype="float32")
    mapped = ModelSpec(str(checkpoint), weights=weights, dtype="float32", device_map=device_map)
    with mock.patch.object(
        AutoModelForCausalLM, "from_pretrained", wraps=AutoModelForCausalLM.from_pretrained
    ) as reading:
        lm = load(mapped)
    if weights == "trained":
        assert reading.call_args.kwargs["device_map"] == device_map
    else:
        assert lm.model.hf_device_map
    assert torch.equal(lm.logits(TOKENS), load(plain).logits(TOKENS))
    assert identity(mapped) == identity(plain)


def test_a_missing_package_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(checkpoint), device_map="auto"))
    load(ModelSpec(str(checkpoint)))


def test_one_device_and_a_spread_over_all_contradict_one_another() -> None:
    with pytest.raises(InvalidValue):
        ModelSpec("gpt2", device="cpu", device_map="auto")
    with pytest.raises(InvalidValue):
        ModelSpec("gpt2", device_map="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FEW)
def test_a_model_over_two_gpus_is_read_and_steered_as_a_whole_one(
    family: str, lm_of: Callable[[str], LanguageModel], add: Callable[..., Add]
) -> None:
    whole = lm_of(family)
    rows, each = torch.tensor([0, 1, 2, 0]), add(1, 1.0, 0.5, -1.0, 0.0)

    def everything(lm: LanguageModel) -> list[torch.Tensor]:
        prefix = compute_prefix(lm, TOKENS, MASK, 1)
        with float32_head(lm):
            tail = tail_logits(lm, prefix, rows, each)
        sampling = Sampling(1.0, (1, 2, 3))
        texts = generate(lm, prefix, rows, each, max_new_tokens=3, eos_ids=(0,), sampling=sampling)
        states = lm.hidden_states(TOKENS, range(DEPTH), MASK)
        steered = lm.logits(TOKENS, MASK, [add(3, 1.0, 0.5, -1.0)])
        return [
            *(states[layer][MASK.bool()].cpu() for layer in states),
            tail.cpu(),
            texts.cpu(),
            steered.cpu(),
        ]

    expected = everything(whole)
    with pretend_cuda(2):
        model = copy.deepcopy(whole.model)
        upper = find_blocks(model)[1][2:]
        places: dict[str, int] = {}
        for name, module in model.named_modules():
            inside = any(name.startswith(f"{placed}.") for placed in places)
            is_block = any(module is block for block in find_blocks(model)[1])
            if name and not inside and (is_block or not [*module.children()]):
                places[name] = int(any(module is block for block in upper))
        lm = LanguageModel(whole.spec, dispatch_model(model, places))
        assert lm.devices == {torch.device("cuda:0"), torch.device("cuda:1")}
        found = everything(lm)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
