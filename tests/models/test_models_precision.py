import time
from contextlib import nullcontext

import pytest
import torch

from lrt.models import ModelSpec, identity, precision
from lrt.models.precision import NARROWEST_FOR_BFLOAT16, resolve_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WIDE = NARROWEST_FOR_BFLOAT16


def auto(checkpoint: torch.dtype, device: torch.device = CPU, width: int = WIDE) -> torch.dtype:
    return resolve_dtype("auto", checkpoint, device, width)


def with_cpu(monkeypatch: pytest.MonkeyPatch, *, onednn: bool = True, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_by_name_is_taken_literally(device: torch.device, name: str) -> None:
    assert resolve_dtype(name, torch.float32, device, 64) == getattr(torch, name)


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16", "bf16", "sve_bf16"])
def test_a_cpu_with_bfloat16_instructions_runs_wide_bfloat16_models_as_they_are(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    with_cpu(monkeypatch, **{instructions: True})
    assert auto(torch.bfloat16) == torch.bfloat16
    assert auto(torch.bfloat16, width=WIDE - 1) == torch.float32
    # float32 weights are never narrowed, and float16 is emulated on a CPU
    assert auto(torch.float32) == auto(torch.float16) == torch.float32


def test_a_cpu_without_them_or_a_torch_without_onednn_runs_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cpu(monkeypatch, avx512_f=True, amx_tile=True, avx512_bf16=False)
    assert auto(torch.bfloat16) == torch.float32
    with_cpu(monkeypatch, onednn=False, avx512_bf16=True)
    assert auto(torch.bfloat16) == torch.float32


@pytest.mark.parametrize("supported", [True, False])
def test_older_torch_is_asked_by_its_own_queries(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    with_cpu(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert auto(torch.bfloat16) == (torch.bfloat16 if supported else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_runs_the_checkpoints_dtype_unless_it_only_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    assert auto(torch.bfloat16, GPU, 64) == (torch.bfloat16 if native else torch.float32)
    assert auto(torch.float32, GPU) == torch.float32
    assert auto(torch.float16, GPU) == torch.float16


def test_another_device_runs_the_checkpoints_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert auto(dtype, torch.device("meta")) == dtype


def test_a_busy_machine_does_not_change_dtype_or_identity(
    monkeypatch: pytest.MonkeyPatch, checkpoint, tmp_path
) -> None:
    monkeypatch.setattr(precision, "NARROWEST_FOR_BFLOAT16", 1)
    with_cpu(monkeypatch, avx512_bf16=True)
    spec = ModelSpec(str(checkpoint), device="cpu")
    idle = identity(spec, tmp_path)
    assert idle["dtype"] == "bfloat16"
    clock = iter(range(0, 10**9, 1000))
    for name in ("perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, lambda: float(next(clock)))
    assert identity(spec, tmp_path) == idle
