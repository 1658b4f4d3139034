"""The frozen result of every fit: a weight matrix and a bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue


@dataclass(frozen=True, eq=False)
class AffineMap:
    """The map `x -> W x + b` from source to target hidden states (paper section 2.1).

    Both tensors are float32 or both are float64, on one device. Raises ValueError for other shapes or
    dtypes, InvalidValue for values that are not finite.
    """

    weight: Tensor  # [d_target, d_source]
    bias: Tensor  # [d_target]

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                "an affine map needs weight [d_target, d_source] and bias [d_target], got "
                f"{list(self.weight.shape)} and {list(self.bias.shape)}"
            )
        dtypes = (torch.float32, torch.float64)
        if self.weight.dtype not in dtypes or self.bias.dtype != self.weight.dtype:
            raise ValueError(
                "an affine map is float32 or float64 in both parts, got weight "
                f"{self.weight.dtype} and bias {self.bias.dtype}"
            )
        if not (self.weight.isfinite().all() and self.bias.isfinite().all()):
            raise InvalidValue(
                "the map has non-finite entries, so its fit diverged: lower fit.learning_rate or whiten the "
                "inputs (fit.whitening=auto)"
            )

    @property
    def d_source(self) -> int:
        return self.weight.shape[1]

    @property
    def d_target(self) -> int:
        return self.weight.shape[0]

    def points(
        self,
        x: Tensor,  # [..., d_source], any float dtype
    ) -> Tensor:  # [..., d_target], in the map's dtype
        """Map hidden states: `W x + b`."""
        return x.to(self.weight) @ self.weight.T + self.bias

    def directions(
        self,
        v: Tensor,  # [..., d_source], any float dtype
    ) -> Tensor:  # [..., d_target], in the map's dtype
        """Map steering vectors: `W v`.

        The paper writes `A v + p`. In a difference of mean states the bias cancels, so `W v` is exact.
        `points` of a vector is the paper's form.
        """
        return v.to(self.weight) @ self.weight.T

    def onto(self, columns: slice) -> AffineMap:
        """The map to some columns of the target only, such as one of several concatenated layers.

        Raises ValueError for a slice without columns.
        """
        if not range(self.d_target)[columns]:
            raise ValueError(f"columns {columns} are none of the {self.d_target} target columns")
        return AffineMap(self.weight[columns], self.bias[columns])

    def to(self, target: torch.dtype | torch.device | str) -> AffineMap:
        """The same map in another dtype or on another device."""
        return AffineMap(self.weight.to(target), self.bias.to(target))

    def describe(self) -> dict[str, int | float | str | None]:
        """Shape, norms, rank and orthogonality of the map, as plain data.

        - `effective_rank` is `(sum s^2)^2 / sum s^4` over singular values s (participation ratio).
        - `orthogonality_defect` is `||G/c - I||_F^2 / d`: zero for a scaled (semi-)orthogonal map, None for
          `W = 0`.
        """
        W = self.weight.double()
        # of the narrow side: a fifth of the time of an SVD, and small values are of no account here
        gram = W @ W.T if self.d_target <= self.d_source else W.T @ W
        squares = torch.linalg.eigvalsh(gram).clamp(min=0)
        total = float(squares.sum())
        spread = float(squares.square().sum())
        scale = total / len(squares)
        return {
            "d_source": self.d_source,
            "d_target": self.d_target,
            "dtype": str(self.weight.dtype).removeprefix("torch."),
            "weight_norm": total**0.5,
            "spectral_norm": float(squares.max()) ** 0.5,
            "effective_rank": total**2 / spread if spread else 0.0,
            "orthogonality_defect": float((squares / scale - 1).square().mean()) if scale else None,
            "bias_norm": float(self.bias.double().norm()),
        }
