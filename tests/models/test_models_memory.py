"""What a batch takes, what a device holds, and batches that were too large after all."""

import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_families import ALL, tiny
from pretend_devices import pretend_cuda
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lrt.errors import InvalidValue
from lrt.models import LanguageModel, ModelSpec, pad
from lrt.models.memory import batch_bytes, cache_bytes, is_out_of_memory, row_bytes, run_in_batches
from lrt.models.prefix import empty_cache

GB = 1_000_000_000


@pytest.mark.parametrize("family", ALL)
def test_the_cache_is_as_large_as_estimated(family: str, lm_of: Callable[[str], LanguageModel]) -> None:
    lm = lm_of(family)
    tokens, mask = pad([list(range(3, 15))] * 2)
    cache = empty_cache(lm)
    with torch.no_grad():
        lm.run(tokens, mask, cache)
    held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    measured = sum(tensor.numel() * tensor.element_size() for tensor in held) / 2
    # a sliding window of n keeps n - 1 tokens between two steps, and n in one
    assert measured <= cache_bytes(lm, 12) <= measured * 4 / 3


def of_config(kind: Any) -> Any:
    """What an estimate reads of a model, of its config alone."""
    config = kind()
    text = config.get_text_config(decoder=True)
    config._attn_implementation = "eager"
    width, depth = text.hidden_size, text.num_hidden_layers
    model = SimpleNamespace(config=config)
    return SimpleNamespace(text_config=text, width=width, depth=depth, dtype=torch.bfloat16, model=model)


# no size of its own, and no default config
WITHOUT_SHAPE = {"blt", "gemma4_assistant"}


@pytest.mark.parametrize("family", sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - WITHOUT_SHAPE))
def test_a_row_of_every_family_is_estimated_in_its_shipped_shape(family: str) -> None:
    lm = of_config(CONFIG_MAPPING[family])
    assert row_bytes(lm, 100, new=100) > row_bytes(lm, 100) > 0


def test_heads_that_differ_between_layers_are_each_counted() -> None:
    lm = of_config(CONFIG_MAPPING["gemma4_text"])
    layers = [*lm.text_config.per_layer_config]
    assert len({layer.head_dim for layer in layers}) > 1
    tokens = 8  # within any window
    expected = sum(2 * tokens * layer.num_key_value_heads * layer.head_dim * 2 for layer in layers)
    assert cache_bytes(lm, tokens) == expected


def test_what_a_row_takes_grows_with_tokens_and_logits(lm_of: Callable[[str], LanguageModel]) -> None:
    lm = lm_of("llama")
    short, long = row_bytes(lm, 10), row_bytes(lm, 100)
    assert short < long < row_bytes(lm, 100, new=50) < row_bytes(lm, 100, new=100)
    assert row_bytes(lm, 100, logits=100) >= 100 * lm.text_config.vocab_size * 4
    eager = tiny("llama")
    eager.model.config._attn_implementation = "eager"
    assert row_bytes(eager, 1000) > 2 * row_bytes(lm, 1000)  # a matrix of all pairs of tokens


def test_a_batch_may_take_what_is_set_or_what_is_free() -> None:
    lm = tiny("llama")
    assert batch_bytes(lm) == 4 * GB
    lm.spec = replace(lm.spec, batch_memory_gb=0.5)
    assert batch_bytes(lm) == GB // 2
    with pretend_cuda(2):
        there = tiny("llama")
        there.model.to("cuda")
        one = batch_bytes(there)
        assert 0.5 * torch.cuda.mem_get_info()[0] < one < torch.cuda.mem_get_info()[0]
        there.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1, "lm_head": "cpu"}
        assert batch_bytes(there) == pytest.approx(2 * one)
        there.spec = lm.spec
        assert batch_bytes(there) == GB // 2


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_no_memory_at_all_is_refused(value: float) -> None:
    with pytest.raises(InvalidValue, match="batch_memory_gb"):
        ModelSpec(path="m", batch_memory_gb=value)


class Device:
    """Runs batches of at most `holds` rows, and notes their sizes."""

    def __init__(self, holds: int, error: Exception, each: int = 1) -> None:
        self.holds, self.error, self.each, self.sizes = holds, error, each, list[int]()

    def __call__(self, some: slice, rows: int) -> list[int]:
        size = min(rows, (some.stop - some.start) * self.each)
        self.sizes.append(size)
        if size > self.holds:
            raise self.error
        return list(range(some.start, some.stop))


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("holds", [1, 3, 5, 40])
def test_batches_are_halved_until_they_fit_and_stay_so(
    holds: int, each: int, caplog: pytest.LogCaptureFixture
) -> None:
    lm, device = tiny("llama"), Device(holds, OUT, each)
    with caplog.at_level(logging.WARNING):
        done = [*run_in_batches(lm, 20, 1000, device, max_rows=40, rows_per_item=each)]
    assert [item for part in done for item in part] == list(range(20))
    failed = [size for size in device.sizes if size > holds]
    assert device.sizes[: len(failed)] == failed  # all before the first that fitted
    assert caplog.text.count("is halved") == len(failed) <= 6
    later = Device(holds, OUT, each)
    assert len([*run_in_batches(lm, 20, 1000, later, max_rows=40, rows_per_item=each)]) >= 1
    assert max(later.sizes) <= holds  # a later batch of the model does not try again


def test_a_row_that_does_not_fit_and_other_errors_are_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(run_in_batches(tiny("llama"), 4, 1000, Device(0, OUT), max_rows=4))
    device = Device(1, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        list(run_in_batches(tiny("llama"), 4, 1000, device, max_rows=4))
    assert device.sizes == [4]


@pytest.mark.parametrize(("gigabytes", "most"), [(1e-6, 1), (1e-5, 10), (1.0, 16)])
def test_no_batch_takes_more_than_its_memory(gigabytes: float, most: int) -> None:
    lm, device = tiny("llama"), Device(100, OUT)
    lm.spec = replace(lm.spec, batch_memory_gb=gigabytes)
    list(run_in_batches(lm, 20, 1000, device, max_rows=16))
    assert max(device.sizes) == most


def test_the_lack_of_memory_of_any_device_is_known() -> None:
    assert is_out_of_memory(OUT)
    assert is_out_of_memory(MemoryError())
    for text in (
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError("out of memory"))
