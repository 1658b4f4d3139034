"""Streaming first and second moments of paired rows: everything that a least-squares map needs.

Rows are centred by a fixed shift (the mean of the first chunk), multiplied in float32 chunks, summed in
float64, and corrected exactly when read. Two accumulators are merged by the pairwise formula of Chan, Golub
and LeVeque.

Residual streams have coordinates with a large mean, and float32 sums without centring lose a decimal digit or
more of the weights. bfloat16 products have rounding errors larger than the small eigenvalues of a scatter,
which then become negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.storage.sealed import load_tensors, save_tensors

# Larger chunks are not faster and add rounding error.
CHUNK_ROWS = 4096

Products = Literal["float32", "float64"]


class Moments:
    """Count, means and centred scatter sums of paired rows, accumulated from a stream.

    products  Dtype of the products of a chunk; the sums are always float64.
    device    Device of the sums. Products are computed where the rows are, so rows and sums can lie apart.

    Raises ValueError for unknown products or widths below 1.
    """

    def __init__(
        self,
        d_source: int,
        d_target: int,
        *,
        products: Products = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        if d_source < 1 or d_target < 1:
            raise ValueError(f"widths must be at least 1, got {d_source} and {d_target}")
        if products not in ("float32", "float64"):
            raise ValueError(f"products must be float32 or float64, got {products!r}")
        self.d_source = d_source
        self.d_target = d_target
        self.products = products
        self.count = 0

        def zeros(*shape: int) -> Tensor:
            # numpy's zeros take no memory until rows are added: many groups of documents stay empty
            return torch.from_numpy(np.zeros(shape)).to(device)

        # Sums of the rows minus a shift that is exact in float32.
        self._shift_x, self._shift_y = zeros(d_source), zeros(d_target)
        self._sum_x, self._sum_y = zeros(d_source), zeros(d_target)
        self._sum_xx = zeros(d_source, d_source)
        self._sum_xy = zeros(d_source, d_target)
        self._sum_yy = zeros(d_target, d_target)

    def update(
        self,
        x: Tensor,  # [n, d_source]
        y: Tensor,  # [n, d_target]
    ) -> None:
        """Add paired rows. Raises InvalidValue for rows that are not finite, ValueError for other shapes."""
        if x.ndim != 2 or y.ndim != 2 or x.shape != (len(y), self.d_source) or y.shape[1] != self.d_target:
            raise ValueError(
                f"expected rows [n, {self.d_source}] and [n, {self.d_target}], got {list(x.shape)} and "
                f"{list(y.shape)}"
            )
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._add_chunk(x[rows].detach(), y[rows].detach())

    def _add_chunk(self, x: Tensor, y: Tensor) -> None:
        product_dtype = torch.float32 if self.products == "float32" else torch.float64
        shifts = self._shift_x, self._shift_y
        if self.count == 0:
            shifts = _mean_of(x), _mean_of(y)
        x, y = (
            rows.to(product_dtype) - shift.to(rows.device, product_dtype)
            for rows, shift in zip((x, y), shifts, strict=True)
        )
        sums = x.sum(0, dtype=torch.float64), y.sum(0, dtype=torch.float64)
        # one answer of the device for both sides, since it waits for all that was computed before
        if not (sums[0].sum() + sums[1].sum()).isfinite():
            side = "target" if sums[0].isfinite().all() else "source"
            raise InvalidValue(
                f"{side} rows are not finite: exclude them (recording.non_finite=exclude), or record in "
                f"a wider dtype (pair.{side}.dtype)"
            )
        if self.count == 0:
            self._shift_x.copy_(shifts[0])
            self._shift_y.copy_(shifts[1])
        with exact_products(x.device):
            self._sum_xx += (x.T @ x).to(self.device)
            self._sum_xy += (x.T @ y).to(self.device)
            self._sum_yy += (y.T @ y).to(self.device)
        self._sum_x += sums[0].to(self.device)
        self._sum_y += sums[1].to(self.device)
        self.count += len(x)

    @property
    def device(self) -> torch.device:
        """Where the sums lie, and the solves that read them run."""
        return self._sum_xx.device

    def to(self, device: torch.device | str) -> Moments:
        """The same moments on another device; themselves where they lie there already."""
        if self.device == torch.device(device):
            return self
        return Moments.from_tensors(self.tensors(), device)

    @property
    def mean_x(self) -> Tensor:  # [d_source]
        return self._shift_x + self._sum_x / self._counted()

    @property
    def mean_y(self) -> Tensor:  # [d_target]
        return self._shift_y + self._sum_y / self._counted()

    @property
    def scatter_xx(self) -> Tensor:  # [d_source, d_source]
        """`sum (x - mean)(x - mean)'`, float64."""
        return _centred(self._sum_xx, self._sum_x, self._sum_x, self._counted())

    @property
    def scatter_xy(self) -> Tensor:  # [d_source, d_target]
        """`sum (x - mean_x)(y - mean_y)'`, float64."""
        return _centred(self._sum_xy, self._sum_x, self._sum_y, self._counted())

    @property
    def scatter_yy(self) -> Tensor:  # [d_target, d_target]
        """`sum (y - mean)(y - mean)'`, float64."""
        return _centred(self._sum_yy, self._sum_y, self._sum_y, self._counted())

    def _counted(self) -> int:
        if self.count == 0:
            raise InvalidValue(
                "there are no rows to fit or score on: the corpus is empty, or `filter` excludes all of its "
                "tokens"
            )
        return self.count

    def merge(self, other: Moments) -> Moments:
        """Moments of the rows of both, as a new object.

        Raises ValueError where the widths differ.
        """
        return merge_all([self, other])

    def without(self, other: Moments) -> Moments:
        """Moments of the rows that are left when those of `other`, which are among them, are taken away, as a
        new object.

        Raises ValueError where the widths differ, and where `other` has more rows.
        """
        if other.count > self.count:
            raise ValueError(f"{other.count} rows cannot be among {self.count}")
        _check_widths([self, other])
        if other.count == self.count:
            return Moments(self.d_source, self.d_target, products=self.products, device=self.device)
        return merge_all([self, other], times=(1, -1))

    def about_origin(self) -> Moments:
        """Moments of the same rows with the means taken as zero, for a fit without a bias."""
        count = self._counted()
        mean_x, mean_y = self.mean_x, self.mean_y
        return _from_centred(
            torch.zeros_like(mean_x),
            torch.zeros_like(mean_y),
            self.scatter_xx + count * torch.outer(mean_x, mean_x),
            self.scatter_xy + count * torch.outer(mean_x, mean_y),
            self.scatter_yy + count * torch.outer(mean_y, mean_y),
            count,
            self.products,
        )

    def part(self, source: slice | Tensor, target: slice | Tensor) -> Moments:
        """A copy for some columns (slices or indices `[k]`), such as one of several concatenated layers."""
        part = Moments(
            len(self._sum_x[source]),
            len(self._sum_y[target]),
            products=self.products,
            device=self.device,
        )
        part._shift_x.copy_(self._shift_x[source])
        part._shift_y.copy_(self._shift_y[target])
        part._sum_x.copy_(self._sum_x[source])
        part._sum_y.copy_(self._sum_y[target])
        part._sum_xx.copy_(_block(self._sum_xx, source, source))
        part._sum_xy.copy_(_block(self._sum_xy, source, target))
        part._sum_yy.copy_(_block(self._sum_yy, target, target))
        part.count = self.count
        return part

    def fvu_of(self, affine: AffineMap) -> float:
        """Fraction of variance unexplained of `affine` on exactly these rows.

        `sum ||W x + b - y||^2 / sum ||y - mean_y||^2`: 1.0 for the mean, 0.0 for a perfect map. Raises
        InvalidValue for target rows that do not vary, ValueError for a map of other widths.
        """
        weight, gap = self._residual_of(affine)
        scatter_yy = self.scatter_yy
        unexplained = (
            scatter_yy.trace()
            - 2 * (weight.T * self.scatter_xy).sum()
            + ((weight @ self.scatter_xx) * weight).sum()
            + self.count * gap.square().sum()
        )
        return _fraction(unexplained, scatter_yy.trace())

    def error_along(
        self,
        affine: AffineMap,
        direction: Tensor,  # [d_target], any nonzero length
    ) -> float:
        """FVU of `affine` on these rows with both sides projected on `direction`.

        Raises InvalidValue for a zero direction or no variance along it, ValueError for another shape.
        """
        weight, gap = self._residual_of(affine)
        unit = unit_vector(direction, self.d_target).to(gap)
        row = unit @ weight
        explained_by = self.scatter_xx @ row - 2 * (self.scatter_xy @ unit)
        total = unit @ self.scatter_yy @ unit
        unexplained = total + row @ explained_by + self.count * (unit @ gap).square()
        return _fraction(unexplained, total)

    def _residual_of(self, affine: AffineMap) -> tuple[Tensor, Tensor]:
        """The weight in float64, and the gap `W mean_x + b - mean_y`."""
        if (affine.d_source, affine.d_target) != (self.d_source, self.d_target):
            raise ValueError(
                f"the map is {affine.d_source} -> {affine.d_target}, the moments are "
                f"{self.d_source} -> {self.d_target}"
            )
        weight = affine.weight.to(self._sum_xx)
        gap = weight @ self.mean_x + affine.bias.to(self._sum_y) - self.mean_y
        return weight, gap

    def tensors(self) -> dict[str, Tensor]:
        """The sums as plain tensors, from which `from_tensors` restores the same moments exactly."""
        return {
            "count": torch.tensor([self.count], dtype=torch.int64),
            "float64_products": torch.tensor([self.products == "float64"]),
            "shift_x": self._shift_x,
            "shift_y": self._shift_y,
            "sum_x": self._sum_x,
            "sum_y": self._sum_y,
            "sum_xx": self._sum_xx,
            "sum_xy": self._sum_xy,
            "sum_yy": self._sum_yy,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str | None = None) -> Moments:
        """Moments from the tensors of `tensors`, on their device where none is given.

        Raises ValueError where one is missing.
        """
        empty = cls(1, 1).tensors()
        if set(tensors) != set(empty):
            raise ValueError(f"these are no moments: got tensors {sorted(tensors)}, expected {sorted(empty)}")
        d_source, d_target = tensors["sum_xy"].shape
        moments = cls(
            d_source,
            d_target,
            products="float64" if bool(tensors["float64_products"]) else "float32",
            device=tensors["sum_xy"].device if device is None else device,
        )
        moments.count = int(tensors["count"])
        own = moments.tensors()
        for name in set(own) - {"count", "float64_products"}:
            own[name].copy_(tensors[name])
        return moments

    def save(self, path: Path) -> str:
        """Write the sums to one safetensors file, completely or not at all, and return its digest."""
        return save_tensors(path, self.tensors())

    @classmethod
    def load(cls, path: Path, digest: str | None = None) -> Moments:
        """Moments from a file of `save`. Raises ValueError for an altered file or another `digest`."""
        return cls.from_tensors(load_tensors(path, digest))


def merge_all(parts: Sequence[Moments], times: Sequence[int] | None = None) -> Moments:
    """Moments of the rows of all `parts`, as a new object, from one reading of each part's sums.

    times  How often the rows of each part count: -1 takes away rows that are among the others'. Once each
           where none are given.

    The scatters add, plus terms of low rank from the gaps of the means (Chan, Golub and LeVeque). Raises
    ValueError where the widths differ.
    """
    _check_widths(parts)
    counted = [(p, n) for p, n in zip(parts, times or [1] * len(parts), strict=True) if p.count and n]
    first = counted[0][0] if counted else parts[0]
    device = first.device
    merged = Moments(first.d_source, first.d_target, products=first.products, device=device)
    if not counted:
        return merged
    rows = torch.tensor([n * part.count for part, n in counted], dtype=torch.float64, device=device)
    # about each part's own mean, then about the new shift
    own = torch.tensor([part.count for part, _ in counted]).to(rows)
    factors = torch.cat([-rows / own.square(), rows])[:, None]
    merged.count = int(rows.sum())

    def low_rank(sums: list[Tensor], means: list[Tensor], shift: Tensor, total: Tensor) -> Tensor:
        off = torch.stack(means).to(device)
        # The mean rounded to float32, so that shifting float32 rows is exact. The remainder is tiny, so later
        # corrections lose no digits.
        shift.copy_((rows @ off / merged.count).float())
        off -= shift
        total.copy_(rows @ off)
        return torch.cat([torch.stack(sums).to(device), off])  # [2 parts, d]

    each = [part for part, _ in counted]
    x = low_rank([p._sum_x for p in each], [p.mean_x for p in each], merged._shift_x, merged._sum_x)
    y = low_rank([p._sum_y for p in each], [p.mean_y for p in each], merged._shift_y, merged._sum_y)
    for part, n in counted:
        merged._sum_xx.add_(part._sum_xx.to(device), alpha=n)
        merged._sum_xy.add_(part._sum_xy.to(device), alpha=n)
        merged._sum_yy.add_(part._sum_yy.to(device), alpha=n)
    merged._sum_xx.addmm_(x.T, factors * x)
    merged._sum_xy.addmm_(x.T, factors * y)
    merged._sum_yy.addmm_(y.T, factors * y)
    return merged


def _check_widths(parts: Sequence[Moments]) -> None:
    if len({(part.d_source, part.d_target) for part in parts}) > 1:
        widths = " and ".join(f"{part.d_source} -> {part.d_target}" for part in parts)
        raise ValueError(f"moments of different widths cannot be merged or subtracted: {widths}")


def unit_vector(
    direction: Tensor,  # [d]
    width: int,
) -> Tensor:  # [d], float64
    """`direction` at length one.

    Raises InvalidValue for one that is zero or not finite, ValueError for another width.
    """
    if direction.shape != (width,):
        raise ValueError(f"expected a direction [{width}], got {list(direction.shape)}")
    length: Tensor = direction.double().norm()
    if not (length > 0 and length.isfinite()):
        raise InvalidValue("a direction must be finite and not zero")
    return direction.double() / length


def _mean_of(rows: Tensor) -> Tensor:
    """The mean, rounded so that rows in float32 are shifted by it exactly."""
    return rows.mean(0, dtype=torch.float64).float()


def _centred(products: Tensor, left: Tensor, right: Tensor, count: int) -> Tensor:
    return torch.addr(products, left, right, alpha=-1 / count)  # one copy of a large matrix


def _block(sums: Tensor, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
    """Some rows and columns of a matrix, without copying whole rows; a view where both are slices."""
    if isinstance(rows, Tensor) and isinstance(columns, Tensor):
        rows = rows[:, None]
    return sums[rows, columns]


def _fraction(unexplained: Tensor, total: Tensor) -> float:
    if not total > 0:
        raise InvalidValue("the target rows do not vary, so FVU is undefined: give the corpus more documents")
    # Rounding can make a perfect map's FVU negative.
    return max(float(unexplained / total), 0.0)


def _from_centred(
    mean_x: Tensor,
    mean_y: Tensor,
    scatter_xx: Tensor,
    scatter_xy: Tensor,
    scatter_yy: Tensor,
    count: int,
    products: Products,
) -> Moments:
    moments = Moments(len(mean_x), len(mean_y), products=products, device=mean_x.device)
    # The new shift is the mean rounded to float32, so that shifting float32 rows is exact. The remainder is
    # tiny, so later corrections lose no digits.
    moments._shift_x.copy_(mean_x.float())
    moments._shift_y.copy_(mean_y.float())
    moments._sum_x.copy_(count * (mean_x - moments._shift_x))
    moments._sum_y.copy_(count * (mean_y - moments._shift_y))
    moments._sum_xx.copy_(scatter_xx + torch.outer(moments._sum_x, moments._sum_x) / count)
    moments._sum_xy.copy_(scatter_xy + torch.outer(moments._sum_x, moments._sum_y) / count)
    moments._sum_yy.copy_(scatter_yy + torch.outer(moments._sum_y, moments._sum_y) / count)
    moments.count = count
    return moments


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32, whatever precision the caller has set for training.

    TF32 on centred rows loses three digits (2.9e-4 instead of 4.4e-7), and `torch.autocast` would compute in
    bfloat16.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
