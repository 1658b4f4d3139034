"""A map as the product of two thin matrices, at the least rank whose loss is small enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.reduced_rank import ReducedRank


@dataclass(frozen=True, eq=False)
class FactoredMap:
    """An affine map `x -> W x + b` whose weight `W` is the product of its factors, float32 on the CPU.

    factors  `up` `[d_target, rank]` and `down` `[rank, d_source]`; or the weight `[d_target, d_source]`
             alone, where that is smaller.

    Raises ValueError for other factors, another dtype and values that are not finite.
    """

    factors: tuple[Tensor, ...]
    bias: Tensor  # [d_target]

    def __post_init__(self) -> None:
        tensors = (*self.factors, self.bias)
        if any(each.dtype != torch.float32 or not each.isfinite().all() for each in tensors):
            raise ValueError("factors and bias must be float32 and finite")
        shapes = [list(each.shape) for each in tensors]
        match shapes:
            case [[a, _], [c]] if a == c:
                return
            case [[a, r], [q, _], [c]] if a == c and r == q:
                return
        raise ValueError(f"factors and bias of shapes {shapes} make no map")

    @property
    def d_source(self) -> int:
        return self.factors[-1].shape[1]

    @property
    def d_target(self) -> int:
        return self.factors[0].shape[0]

    @property
    def rank(self) -> int:
        """Rank of the weight: the width between its factors, or the narrower side of the whole weight."""
        return min(self.factors[0].shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors and the bias."""
        return sum(each.nbytes for each in (*self.factors, self.bias))

    def affine(self) -> AffineMap:
        """The map with its weight multiplied out."""
        weight = self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]
        return AffineMap(weight, self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Bias and factors by name, from which `from_tensors` restores the same map exactly."""
        names = ("weight",) if len(self.factors) == 1 else ("up", "down")
        return {**dict(zip(names, self.factors, strict=True)), "bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FactoredMap:
        """The map of `tensors`. Raises KeyError where one is missing."""
        if "weight" in tensors:
            return cls((tensors["weight"],), tensors["bias"])
        return cls((tensors["up"], tensors["down"]), tensors["bias"])


def factored_within(
    loss: float, full: AffineMap, ranks: ReducedRank, held_out: Iterable[Moments]
) -> FactoredMap:
    """The map of the least rank whose FVU on all of the held-out rows is within `loss` of the full map's.

    full   The ridge map, which is stored whole where its factors would be larger.
    ranks  The best map of every rank at the ridge weight of `full`.

    Raises ValueError for a loss below 0, InvalidValue for held-out rows that do not vary.
    """
    if not loss >= 0:
        raise ValueError(f"a loss of FVU must be at least 0, got {loss}")
    # the full rank's own figure: it is the ridge map but for rounding
    within = [curve <= curve[-1] + loss for curve in map(ranks.fvu, held_out)]
    # the same rank for all: on held-out rows a curve may rise again
    rank = int(torch.stack(within).all(dim=0).nonzero()[0]) + 1
    if rank * (full.d_source + full.d_target) >= full.d_source * full.d_target:
        stored = full.to(torch.float32)
        return FactoredMap((stored.weight,), stored.bias)
    up, down = ranks.up[:, :rank], ranks.down[:rank]
    bias = ranks.mean_y - up @ (down @ ranks.mean_x)
    up, down, bias = (each.to("cpu", torch.float32).contiguous() for each in (up, down, bias))
    return FactoredMap((up, down), bias)
