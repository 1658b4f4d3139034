"""Hidden states that are sums of few known directions, in two models whose directions are related."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrt.features import SparseAutoencoder


@dataclass(frozen=True)
class PlantedFeatures:
    dictionary: Tensor  # [m, d], unit rows
    activations: Tensor  # [n, m]
    states: Tensor  # [n, d]
    mean: Tensor  # [d]


def unit_rows(count: int, width: int, generator: torch.Generator) -> Tensor:
    return nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)


def plant_features(
    width: int = 24, features: int = 32, rows: int = 8192, active: int = 3, seed: int = 1000
) -> PlantedFeatures:
    generator = torch.Generator().manual_seed(seed)
    dictionary = unit_rows(features, width, generator)
    on = torch.rand(rows, features, generator=generator).topk(active, dim=1).indices
    sizes = 3 + 2 * torch.rand(rows, active, generator=generator)
    activations = torch.zeros(rows, features).scatter(1, on, sizes)
    mean = 5 * torch.randn(width, generator=generator)
    noise = 0.05 * torch.randn(rows, width, generator=generator)
    return PlantedFeatures(dictionary, activations, activations @ dictionary + mean + noise, mean)


def random_autoencoder(kind: str, width: int = 6, features: int = 10, seed: int = 0, **settings):
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "W_enc": torch.randn(width, features, generator=generator),
        "b_enc": torch.randn(features, generator=generator),
        "W_dec": torch.randn(features, width, generator=generator),
        "b_dec": torch.randn(width, generator=generator),
    }
    if kind == "jumprelu":
        weights["threshold"] = torch.rand(features, generator=generator)
    if kind == "topk":
        settings.setdefault("k", 3)
    return SparseAutoencoder(**weights, kind=kind, **settings)
