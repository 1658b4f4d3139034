"""States on the CPU and an autoencoder on another device, as after a training: it computes where it is."""

import pytest
import torch
from planted_features import random_autoencoder
from pretend_devices import pretend_cuda
from torch import Tensor

from lrt.features import (
    EncodedRows,
    SparseAutoencoder,
    behaviour_features,
    compare_decoders,
    decoded_direction,
    feature_direction,
    feature_moments,
    fit_s2l,
    score_autoencoder,
)
from lrt.mapping import AffineMap

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(400, 6, generator=GENERATOR) + 4, torch.randn(400, 6, generator=GENERATOR)
WEIGHTS = [0.1]


def everything(a: SparseAutoencoder, b: SparseAutoencoder) -> dict[str, Tensor | float]:
    moments = feature_moments(a, [{"source": X, "target": Y}])
    s2l = fit_s2l(moments, moments, WEIGHTS).map
    telling = behaviour_features(a, X[:200], X[200:] + 1)
    geometry = compare_decoders(a, b, [(X, Y)])
    identity = AffineMap(torch.eye(6), torch.zeros(6))
    return {
        "features": a.encode(X),
        "reconstruction": a(X),
        "s2l": feature_direction(s2l, telling.coefficients),
        "l2l": decoded_direction(identity, a, telling.coefficients),
        "points": s2l.points(a.encode(X).cpu()),
        "share": telling.cosine,
        "fvu": score_autoencoder(a, X.split(100)).fvu,
        "dead": score_autoencoder(a, X.split(100)).dead,
        "forward": geometry.matched.forward.fvu.value,
        "shuffled": geometry.shuffled.forward.fvu.value,
    }


@pytest.mark.parametrize("other", ["cuda:0", "cuda:1", "cpu"])
def test_an_autoencoder_computes_on_its_device(other: str) -> None:
    expected = everything(random_autoencoder("relu", features=64), random_autoencoder("topk", features=64))
    with pretend_cuda(2):
        pair = (
            random_autoencoder("relu", features=64).to("cuda:0"),
            random_autoencoder("topk", features=64).to(other),
        )
        found = everything(*pair)
        assert [sae.device for sae in pair] == [torch.device("cuda:0"), torch.device(other)]
        # what is solved is handed out on the CPU
        places = {"features": "cuda:0", "reconstruction": "cuda:0", "s2l": "cpu", "points": "cpu"}
        for name, place in places.items():
            assert found[name].device == torch.device(place)
        found = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}
    for name, value in expected.items():
        torch.testing.assert_close(torch.as_tensor(found[name]), torch.as_tensor(value), rtol=1e-4, atol=1e-5)


def test_encoding_batches_on_a_device_leaves_the_autoencoder_where_it_was() -> None:
    sae = random_autoencoder("relu", features=64)
    with pretend_cuda():
        rows = EncodedRows(torch.nn.Module(), sae)  # type: ignore[arg-type]
        batch = {"source": X.to("cuda"), "target": Y.to("cuda")}
        encoded = rows.on_after_batch_transfer(batch, 0)["source"]
        assert encoded.device == torch.device("cuda:0")
        assert sae.device == torch.device("cpu")
        torch.testing.assert_close(sae.encode(X), encoded.cpu())
