"""Whitened coordinates, in which gradient descent is well conditioned, and the way back.

Covariances of residual streams have condition numbers of several thousand, even without massive activations,
so plain SGD on raw states hardly learns most directions. In coordinates whitened by the training moments the
Hessian of the least-squares loss is 2 I.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments

WhiteningMode = Literal["none", "scale", "full"]


class Whitening(nn.Module):
    """The change to whitened coordinates, as buffers that are saved in the fit's checkpoints.

    Source rows become `x' = T (x - mean_x)`, target rows `y' = (y - mean_y) / scale_y`:

    - `none`: rows unchanged.
    - `scale`: centred, and divided by one scalar per side, which preserves angles and so orthogonality. The
      source scalar is its largest standard deviation, so that the loss is at most as curved as in `full`. The
      target's total variance becomes 1.
    - `full`: the source in the eigenbasis of its covariance, with variance `l / (l + l2)` per direction; the
      target as in `scale`.

    `T T'` is diagonal in every mode, so `||W||_F^2` of the folded weight costs one product with
    `column_cost`. The constructor makes the identity, to be loaded from a checkpoint. Raises InvalidValue for
    an unknown mode.
    """

    mean_x: Tensor  # [d_source]
    transform: Tensor  # [d_source, d_source] in mode full, else []
    mean_y: Tensor  # [d_target]
    scale_y: Tensor  # []
    variance: Tensor  # [], the target's centred variance in whitened units, summed over dimensions
    gain: Tensor  # [], standard deviation of whitened target rows over that of source rows

    def __init__(self, d_source: int, d_target: int, mode: WhiteningMode) -> None:
        super().__init__()
        if mode not in get_args(WhiteningMode):
            raise InvalidValue(
                f"fit.whitening must be auto or one of {get_args(WhiteningMode)}, got {mode!r}"
            )
        self.mode = mode
        self.register_buffer("mean_x", torch.zeros(d_source))
        self.register_buffer("transform", torch.eye(d_source) if mode == "full" else torch.ones(()))
        self.register_buffer("mean_y", torch.zeros(d_target))
        self.register_buffer("scale_y", torch.ones(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("gain", torch.ones(()))

    @classmethod
    def from_moments(
        cls,
        train: Moments,
        mode: WhiteningMode,
        *,
        l2: float = 0.0,
        floor: float = 1e-6,
        bias: bool = True,
    ) -> Whitening:
        """Whitening by the training moments.

        l2     Ridge weight per row in the loss. Added to the eigenvalues, it keeps the Hessian of loss and
               ridge at 2 I.
        floor  Least eigenvalue, relative to the mean one, that is scaled to unit variance.
        bias   Without a bias nothing is centred.

        Raises InvalidValue where either side does not vary.
        """
        whitening = cls(train.d_source, train.d_target, mode)
        fitted = train if bias else train.about_origin()
        covariance = fitted.scatter_xx / train.count
        variance_y = float(train.scatter_yy.trace()) / train.count
        variance_x = float(covariance.trace())
        for side, variance in (("source", variance_x), ("target", variance_y)):
            if not variance > 0:
                raise InvalidValue(f"the {side} rows do not vary: give the corpus more documents")
        if mode == "none":
            whitening.variance.fill_(variance_y)
            whitening.gain.fill_((variance_y / variance_x) ** 0.5)
            return whitening
        whitening.mean_x.copy_(fitted.mean_x)
        whitening.mean_y.copy_(fitted.mean_y)
        whitening.scale_y.fill_(variance_y**0.5)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        if mode == "scale":
            largest = float(eigenvalues[-1])
            whitening.transform.fill_(largest**-0.5)
            whitening.gain.fill_((largest / variance_x) ** 0.5)
        else:
            least = floor * variance_x / train.d_source
            size = (eigenvalues + l2).clamp(min=least)
            whitening.transform.copy_((vectors / size.sqrt()).T)
            whitening.gain.fill_(float((eigenvalues / size).sum()) ** -0.5)
        return whitening

    def source(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_source], float32
        # bfloat16 under autocast would undo the whitening.
        with torch.autocast(x.device.type, enabled=False):
            centred = x.float() - self.mean_x
            return centred @ self.transform.T if self.mode == "full" else centred * self.transform

    def target(
        self,
        y: Tensor,  # [n, d_target]
    ) -> Tensor:  # [n, d_target], float32
        return (y.float() - self.mean_y) / self.scale_y

    def target_back(
        self,
        y: Tensor,  # [n, d_target], whitened
    ) -> Tensor:  # [n, d_target], float32
        return y.float() * self.scale_y + self.mean_y

    def raw_weight(
        self,
        weight: Tensor,  # [d_target, d_source], whitened
    ) -> Tensor:  # [d_target, d_source]
        """The weight in the models' own coordinates, up to the target's scalar scale."""
        return weight @ self.transform if self.mode == "full" else weight * self.transform

    def column_cost(self) -> Tensor:  # [d_source] or []
        """The diagonal of `T T'`: `sum(W'^2 * column_cost)` is `||W' T||_F^2`."""
        return self.transform.square().sum(1) if self.mode == "full" else self.transform.square()

    def unfold(self, affine: AffineMap) -> AffineMap:
        """The inverse of `fold`: a map between raw coordinates as one between whitened ones, in float64."""
        raw = affine.weight.double()
        transform = self.transform.double()
        # T T' is diagonal, so T' over that diagonal is T's inverse
        weight = (raw @ transform.T) / self.column_cost().double() if self.mode == "full" else raw / transform
        bias = affine.bias.double() + raw @ self.mean_x.double() - self.mean_y.double()
        return AffineMap(weight / self.scale_y.double(), bias / self.scale_y.double())

    def fold(self, affine: AffineMap) -> AffineMap:
        """A map between whitened coordinates as the same map between raw ones, in float64."""
        transform = self.transform.double()
        weight = affine.weight.double()
        weight = weight @ transform if self.mode == "full" else weight * transform
        weight = self.scale_y.double() * weight
        bias = self.mean_y.double() + self.scale_y.double() * affine.bias.double()
        return AffineMap(weight, bias - weight @ self.mean_x.double())
