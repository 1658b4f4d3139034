"""Where moments are summed and solved."""

import logging
from unittest import mock

import pytest
import torch

from lrt.models.hardware import free_bytes, with_float64, with_room

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def gpu() -> object:
    """A GPU with 3 GB free, of which torch holds 1 GB that it does not use."""
    memory = {"mem_get_info": (2 << 30, 8 << 30), "memory_reserved": 5 << 30, "memory_allocated": 4 << 30}
    with mock.patch.multiple(torch.cuda, **{k: lambda *_, v=v: v for k, v in memory.items()}) as patched:
        yield patched


@pytest.mark.usefixtures("gpu")
def test_what_does_not_fit_stays_in_the_cpus_memory(caplog: pytest.LogCaptureFixture) -> None:
    assert free_bytes(CUDA) == 3 << 30
    with caplog.at_level(logging.INFO, "lrt"):
        assert with_room(CUDA, int(2.6 * 2**30), "sums") == CUDA
        assert not caplog.text
        assert with_room(CUDA, int(2.8 * 2**30), "sums of six folds") == CPU
    assert "sums of six folds" in caplog.text
    assert "3.22 GB" in caplog.text


def test_the_cpu_is_asked_for_nothing() -> None:
    assert free_bytes(CPU) is None
    assert with_room(CPU, 1 << 60, "sums") == CPU
    assert with_float64(CPU) == CPU


def test_a_device_without_float64_leaves_sums_to_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    refusal = TypeError("Cannot convert a MPS Tensor to float64 dtype")
    with mock.patch("torch.empty", side_effect=refusal), caplog.at_level(logging.INFO, "lrt"):
        assert with_float64(torch.device("mps")) == CPU
    assert "float64" in caplog.text
