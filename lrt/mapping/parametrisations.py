"""The kinds of map as trainable modules.

They work in the coordinates of `Whitening`; the fitted map is folded back into the models' own coordinates.
Each has a weight matrix (`weight`), a way to start at a map (`start_at`), and a list of the parameters that
weight decay applies to (`decayed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap

MapKind = Literal["full", "low_rank", "orthogonal", "orthogonal_penalty"]
OrthogonalForm = Literal["cayley", "matrix_exp"]


@dataclass(frozen=True)
class MapSpec:
    """Which kind of affine map to fit (paper section 2.1; the restricted kinds are this project's).

    kind     `full`: any `W`. `low_rank`: `W = U V`. `orthogonal`: `W = c Q` with `Q` (semi-)orthogonal and
             `c > 0`. `orthogonal_penalty`: any `W`, with a penalty on its distance from such a map.
    rank     Of a `low_rank` map.
    penalty  Weight of `orthogonality_penalty(W)` in the loss of `orthogonal_penalty`, in units of FVU.
    bias     Whether the map has one; without, it is fitted through the origin.
    orthogonal_form  How `Q` is parametrised in a gradient fit. A step of a 896 -> 1536 map costs 8 times a
             plain layer's with `cayley` and 33 times with `matrix_exp`. From a random start `cayley` needs
             several times as many steps, since it cannot rotate by half a turn.
    """

    kind: MapKind = "full"
    rank: int | None = None
    penalty: float | None = None
    bias: bool = True
    orthogonal_form: OrthogonalForm = "matrix_exp"

    def check(self, d_source: int, d_target: int) -> None:
        """Raise InvalidValue, naming the setting, where this map is impossible at these widths."""
        if self.kind not in get_args(MapKind):
            raise InvalidValue(f"map.kind must be one of {get_args(MapKind)}, got {self.kind!r}")
        if self.kind == "low_rank":
            most = min(d_source, d_target)
            if self.rank is None or not 1 <= self.rank <= most:
                raise InvalidValue(
                    f"map.rank must be 1 to {most} for widths {d_source} -> {d_target}, got {self.rank}"
                )
        elif self.rank is not None:
            raise InvalidValue(
                f"map.rank={self.rank} is a setting of map.kind=low_rank, but map.kind={self.kind}; set "
                "map.rank=null or map.kind=low_rank"
            )
        if self.kind == "orthogonal_penalty":
            if self.penalty is None or not 0 < self.penalty < float("inf"):
                raise InvalidValue(
                    "map.penalty must be a finite number above 0 for map.kind=orthogonal_penalty, got "
                    f"{self.penalty}"
                )
        elif self.penalty is not None:
            raise InvalidValue(
                f"map.penalty={self.penalty} is a setting of map.kind=orthogonal_penalty, but "
                f"map.kind={self.kind}; set map.penalty=null or map.kind=orthogonal_penalty"
            )
        if self.kind != "orthogonal" and self.orthogonal_form != "matrix_exp":
            raise InvalidValue(
                f"map.orthogonal_form={self.orthogonal_form} is a setting of map.kind=orthogonal, but "
                f"map.kind={self.kind}; remove it"
            )
        if self.orthogonal_form not in get_args(OrthogonalForm):
            raise InvalidValue(
                f"map.orthogonal_form must be one of {get_args(OrthogonalForm)}, got {self.orthogonal_form!r}"
            )

    def build(
        self,
        d_source: int,
        d_target: int,
        generator: torch.Generator,
        gain: float = 1.0,
    ) -> TrainableMap:
        """The trainable module. The orthogonal kinds start at scale `gain` (`c` of `c Q`)."""
        self.check(d_source, d_target)
        match self.kind:
            case "full":
                return FullMap(d_source, d_target, bias=self.bias)
            case "orthogonal_penalty":
                # At W = 0 the penalty has no gradient direction, so start where it is zero.
                start = gain * random_semi_orthogonal(d_target, d_source, generator)
                return FullMap(d_source, d_target, bias=self.bias, start=start)
            case "low_rank":
                assert self.rank is not None
                return LowRankMap(d_source, d_target, self.rank, bias=self.bias, generator=generator)
            case "orthogonal":
                return OrthogonalMap(
                    d_source,
                    d_target,
                    bias=self.bias,
                    form=self.orthogonal_form,
                    gain=gain,
                    generator=generator,
                )


class FullMap(nn.Module):
    """Any weight matrix; by default it starts as the mean predictor `W = 0`."""

    def __init__(
        self,
        d_source: int,
        d_target: int,
        *,
        bias: bool = True,
        start: Tensor | None = None,  # [d_target, d_source]
    ) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(d_target, d_source) if start is None else start.clone())
        self.bias = nn.Parameter(torch.zeros(d_target)) if bias else None

    def weight(self) -> Tensor:  # [d_target, d_source]
        return self.matrix

    @torch.no_grad()
    def start_at(self, affine: AffineMap) -> None:
        """Start at this map."""
        self.matrix.copy_(affine.weight)
        _copy_bias(self.bias, affine)

    def decayed(self) -> list[nn.Parameter]:
        return [self.matrix]

    def forward(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_target]
        return nn.functional.linear(x, self.matrix, self.bias)


class LowRankMap(nn.Module):
    """`W = U V`, applied factor by factor. `U` starts at zero, `V` orthonormal."""

    def __init__(
        self,
        d_source: int,
        d_target: int,
        rank: int,
        *,
        generator: torch.Generator,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.down = nn.Parameter(random_semi_orthogonal(rank, d_source, generator))
        self.up = nn.Parameter(torch.zeros(d_target, rank))
        self.bias = nn.Parameter(torch.zeros(d_target)) if bias else None

    def weight(self) -> Tensor:  # [d_target, d_source]
        return self.up @ self.down

    @torch.no_grad()
    def start_at(self, affine: AffineMap) -> None:
        """Start at the nearest map of this rank; `V` stays orthonormal."""
        U, s, Vt = torch.linalg.svd(affine.weight.double(), full_matrices=False)
        rank = len(self.down)
        self.up.copy_(U[:, :rank] * s[:rank])
        self.down.copy_(Vt[:rank])
        _copy_bias(self.bias, affine)

    def decayed(self) -> list[nn.Parameter]:
        return [self.up, self.down]

    def forward(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_target]
        return nn.functional.linear(nn.functional.linear(x, self.down), self.up, self.bias)


class OrthogonalMap(nn.Module):
    """`W = c Q`, `Q` with orthonormal rows or columns, `c = gain * exp(log_scale)`.

    Weight decay does not apply: the raw parameter of `Q` has no scale to shrink. For square widths `Q` keeps
    the sign of its determinant.
    """

    gain: Tensor

    def __init__(
        self,
        d_source: int,
        d_target: int,
        *,
        generator: torch.Generator,
        form: OrthogonalForm = "matrix_exp",
        gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.rotation = nn.Linear(d_source, d_target, bias=False)
        parametrize.register_parametrization(self.rotation, "weight", _ScaledParameter(gain))
        parametrizations.orthogonal(self.rotation, "weight", orthogonal_map=form)
        start = random_semi_orthogonal(d_target, d_source, generator)
        self._turn_to(start, int(torch.randint(2**62, (), generator=generator)))
        self.register_buffer("gain", torch.tensor(float(gain)))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(d_target)) if bias else None

    def weight(self) -> Tensor:  # [d_target, d_source]
        return self.gain * self.log_scale.exp() * self.rotation.weight

    @torch.no_grad()
    def start_at(self, affine: AffineMap, seed: int = 0) -> None:
        """Start at the nearest scaled (semi-)orthogonal map."""
        U, s, Vt = torch.linalg.svd(affine.weight.double(), full_matrices=False)
        self._turn_to((U @ Vt).float(), seed)
        self.log_scale.fill_(math.log(float(s.mean()) / float(self.gain)))
        _copy_bias(self.bias, affine)

    def _turn_to(self, Q: Tensor, seed: int) -> None:
        # torch completes a rectangular matrix to a basis with its global generator
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.rotation.weight = Q

    def decayed(self) -> list[nn.Parameter]:
        return []

    def forward(
        self,
        x: Tensor,  # [n, d_source]
    ) -> Tensor:  # [n, d_target]
        return nn.functional.linear(x, self.weight(), self.bias)


class _ScaledParameter(nn.Module):
    """Scales the raw parameter of `Q`, so that a step moves `c Q` as far as it would move a free weight.

    Otherwise a step of SGD would move it only `gain^2` as far, and `gain` falls with the width.
    """

    factor: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        # A power of two, so that scaling is exact.
        self.register_buffer("factor", torch.tensor(2.0 ** round(-math.log2(gain))))

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.factor

    def right_inverse(self, scaled: Tensor) -> Tensor:
        return scaled / self.factor


def _copy_bias(bias: nn.Parameter | None, affine: AffineMap) -> None:
    if bias is not None:
        bias.copy_(affine.bias)


TrainableMap = FullMap | LowRankMap | OrthogonalMap


def orthogonality_penalty(
    weight: Tensor,  # [d_target, d_source]
) -> Tensor:  # []
    """`||G/c - I||_F^2 / d`, `G` the smaller of `W'W` and `WW'`, `d` its size, `c = tr G / d`.

    Zero for every scaled (semi-)orthogonal map, whatever its scale. Not finite for `W = 0`.
    """
    wide = weight.shape[0] < weight.shape[1]
    gram = weight @ weight.T if wide else weight.T @ weight
    size = len(gram)
    scale = gram.trace() / size
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
    penalty: Tensor = (gram / scale - identity).square().sum() / size
    return penalty


def random_semi_orthogonal(
    rows: int,
    columns: int,
    generator: torch.Generator,
) -> Tensor:  # [rows, columns], float32
    """A random matrix with orthonormal rows or columns (the shorter side), uniform over such matrices."""
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator)
    Q, triangle = torch.linalg.qr(tall)
    # Multiplying by the signs of the diagonal makes the distribution uniform (Mezzadri 2007).
    signed: Tensor = (Q * triangle.diagonal().sign()).float()
    return signed if rows >= columns else signed.T.contiguous()
