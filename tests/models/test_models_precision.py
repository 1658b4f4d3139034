import pytest
import torch

from lrt.models import precision
from lrt.models.precision import resolve_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_dtype_by_name_is_taken_literally(device: torch.device) -> None:
    for name in ("float32", "bfloat16", "float16"):
        assert resolve_dtype(name, torch.float32, device, 64) == getattr(torch, name)


def test_a_gpu_runs_what_the_checkpoint_holds() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert resolve_dtype("auto", dtype, GPU, 64) == dtype


@pytest.mark.parametrize("pays", [True, False])
def test_a_cpu_runs_bfloat16_only_where_it_pays(monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    monkeypatch.setattr(precision, "bfloat16_pays", lambda _: pays)
    expected = torch.bfloat16 if pays else torch.float32
    assert resolve_dtype("auto", torch.bfloat16, CPU, 2048) == expected
    # float32 weights are never narrowed, float16 is emulated on a CPU
    assert resolve_dtype("auto", torch.float32, CPU, 2048) == torch.float32
    assert resolve_dtype("auto", torch.float16, CPU, 2048) == torch.float32


@pytest.mark.parametrize(("gain", "pays"), [(2.0, True), (1.1, False), (0.5, False)])
def test_the_probe_wants_a_clear_gain(monkeypatch: pytest.MonkeyPatch, gain: float, pays: bool) -> None:
    seconds = {torch.float32: gain, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_product_seconds", lambda dtype, _: seconds[dtype])
    precision.bfloat16_pays.cache_clear()
    try:
        assert precision.bfloat16_pays(2048) is pays
        assert precision.bfloat16_pays(128) is False
    finally:
        precision.bfloat16_pays.cache_clear()


def test_the_probe_measures() -> None:
    assert precision._product_seconds(torch.float32, 64) > 0
