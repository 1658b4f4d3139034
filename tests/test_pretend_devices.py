"""The pretend devices themselves: what CUDA refuses is refused, and what it computes is computed."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pretend_devices import pretend_cuda
from torch import Tensor, nn

X = torch.arange(12.0).view(3, 4)


def on_cpu_and_gpu(x: Tensor) -> Tensor:
    return x + torch.ones(3, 4)


MIXES: list[Callable[[Tensor], object]] = [
    on_cpu_and_gpu,
    lambda x: nn.Linear(4, 2)(x),
    lambda x: x @ torch.ones(4, 2, device="cuda:1"),
    lambda x: torch.cat([x, torch.ones(1, 4)]),
    lambda x: torch.ones(3, 4) * x.sum(),
    lambda x: torch.zeros(()).add_(x.sum()),
    lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    lambda x: torch.ones(3, 4)[x[0].long()],
]


@pytest.mark.parametrize("mix", MIXES)
def test_tensors_of_two_devices_do_not_mix(mix: Callable[[Tensor], object]) -> None:
    with pretend_cuda(2):
        with pytest.raises(RuntimeError, match="same device"):
            mix(X.to("cuda"))
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(X.to("cuda"))


def test_tensors_of_one_device_do() -> None:
    with pretend_cuda(2) as copies:
        model = nn.Linear(4, 2).to("cuda:1")
        there = X.to("cuda:1")
        loss = (model(there) * 2.0 * torch.tensor(0.5)).sum()
        loss.backward()
        torch.optim.Adam(model.parameters()).step()
        for tensor in (loss, model.weight, model.weight.grad, there.T[1:], copy.deepcopy(model).bias):
            assert tensor is not None
            assert (tensor.device, tensor.is_cuda) == (torch.device("cuda:1"), True)
        assert torch.equal(there.cpu(), X)
        assert there.cpu().numpy().sum() == X.sum()
        assert copies["to cpu"] == 2
        assert there[torch.tensor([0])].device == there.device
        with torch.inference_mode():
            assert there.to("cpu").device == torch.device("cpu")
            assert torch.tensor([1.0], device="cuda").to("cuda:1").device == there.device
        assert torch.zeros_like(there).device == there.device
        assert there.to("cuda:1") is there
        assert torch.cuda.device_count() == 2
    assert not torch.cuda.is_available()
    assert X.device == torch.device("cpu")
