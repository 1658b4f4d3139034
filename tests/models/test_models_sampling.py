import pytest
import torch

from lrt.errors import InvalidValue
from lrt.models import Sampling


def test_the_largest_of_logits_and_noise_is_a_draw_from_their_softmax() -> None:
    logits, temperature = torch.tensor([1.0, 0.0, -1.0, 2.0]), 0.7
    noise = Sampling(temperature, tuple(range(6000))).noise(3, 4)
    drawn = (logits / temperature + noise).argmax(dim=1)
    found = torch.bincount(drawn, minlength=4) / 6000
    torch.testing.assert_close(found, (logits / temperature).softmax(0), atol=0.03, rtol=0)


def test_noise_is_the_seeds_and_the_steps_alone() -> None:
    one = Sampling(1.0, (5, 9, 5)).noise(2, 30)
    assert torch.equal(one[0], one[2])
    assert not torch.equal(one[0], one[1])
    assert torch.equal(one[1], Sampling(0.5, (9,)).noise(2, 30)[0])
    assert not torch.equal(one, Sampling(1.0, (5, 9, 5)).noise(3, 30))
    assert one.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_above_zero(temperature: float) -> None:
    with pytest.raises(InvalidValue):
        Sampling(temperature, (1,))
