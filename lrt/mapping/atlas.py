"""A figure for every pair of a source and a target layer: the grid that layers are picked from.

`GridMoments` gathers what all pairs need in one pass: each layer's own scatter once and every cross
scatter, so that a grid costs far less than its pairs. `SharedRidge` decomposes a source layer once for
all target layers, and `atlas` gives, for each pair, the fit on test documents, similarity, rank, and the
error along each steering vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import CHUNK_ROWS, Moments, Products, _exact_products, unit_vector
from lrt.mapping.ridge import RELATIVE_WEIGHTS, RidgeFit
from lrt.mapping.stacking import Stack

# Share of the full map's explained variance that the least rank must reach.
RANK_SHARE = 0.95


@dataclass(frozen=True)
class AtlasCell:
    """One pair of layers.

    `fvu` and `error_along` (one per steering vector) are of the ridge map on test rows, its `weight`
    chosen on validation rows; `cosine` is that of `W v` with the native vector. `cka` is linear CKA of
    the training rows. `rank` is the least rank whose reduced-rank map explains 95% of the variance that
    the whole map explains on test rows; 0 where that explains nothing.
    """

    source_layer: int
    target_layer: int
    fvu: float
    weight: float
    cka: float
    rank: int
    error_along: Mapping[str, float]
    cosine: Mapping[str, float]


class GridMoments:
    """Moments of every pair of a grid of layers, each block held once.

    For `S` source and `T` target layers: `S` source scatters, `T` target scatters, `S T` cross
    scatters (`atlas_bytes` in all), where a stack of the same layers would hold all source-source and
    target-target blocks too. `products` and `device` are as in `Moments`.

    Raises ValueError for no layers, one named twice, widths below 1 or unknown products.
    """

    def __init__(
        self,
        source_layers: Sequence[int],
        d_source: int,
        target_layers: Sequence[int],
        d_target: int,
        *,
        products: Products = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        for side, layers in (("source", source_layers), ("target", target_layers)):
            if not layers or len(set(layers)) < len(layers):
                raise ValueError(
                    f"{side} layers of a grid: at least one, each once; got {list(layers)} (layers.{side})"
                )
        if d_source < 1 or d_target < 1:
            raise ValueError(f"widths must be at least 1, got {d_source} and {d_target}")
        if products not in ("float32", "float64"):
            raise ValueError(f"moments.products is float32 or float64, got {products!r}")
        self.source_layers = tuple(source_layers)
        self.target_layers = tuple(target_layers)
        self.d_source = d_source
        self.d_target = d_target
        self.products = products
        self.count = 0
        S, T = len(source_layers), len(target_layers)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        # As in `Moments`: sums of the rows less a shift that float32 holds exactly.
        self._shift_x, self._shift_y = zeros(S, d_source), zeros(T, d_target)
        self._sum_x, self._sum_y = zeros(S, d_source), zeros(T, d_target)
        self._sum_xx = zeros(S, d_source, d_source)
        self._sum_xy = zeros(S, T, d_source, d_target)
        self._sum_yy = zeros(T, d_target, d_target)

    def update(
        self,
        source: Mapping[int, Tensor],  # layer: [n, d_source]
        target: Mapping[int, Tensor],  # layer: [n, d_target]
    ) -> None:
        """Add paired rows of every layer. Raises ValueError, with nothing added, for layers other than
        the grid's, other shapes and non-finite rows.
        """
        xs = _rows(source, self.source_layers, self.d_source, "source")
        ys = _rows(target, self.target_layers, self.d_target, "target")
        if len(xs[0]) != len(ys[0]):
            raise ValueError(f"rows are pairs, got {len(xs[0])} of the source and {len(ys[0])} of the target")
        for start in range(0, len(xs[0]), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._add_chunk([x[rows].detach() for x in xs], [y[rows].detach() for y in ys])

    def _add_chunk(self, xs: list[Tensor], ys: list[Tensor]) -> None:
        if self.count == 0:
            for shift, states in ((self._shift_x, xs), (self._shift_y, ys)):
                for i, rows in enumerate(states):
                    shift[i] = rows.mean(0, dtype=torch.float64).float()
        self.count += len(xs[0])
        centred_x = self._centred(xs, self._shift_x)
        centred_y = self._centred(ys, self._shift_y)
        with _exact_products():
            for i, x in enumerate(centred_x):
                self._sum_x[i] += x.sum(0, dtype=torch.float64).to(self._sum_x)
                self._sum_xx[i] += (x.T @ x).to(self._sum_xx)
                for j, y in enumerate(centred_y):
                    self._sum_xy[i, j] += (x.T @ y).to(self._sum_xy)
            for j, y in enumerate(centred_y):
                self._sum_y[j] += y.sum(0, dtype=torch.float64).to(self._sum_y)
                self._sum_yy[j] += (y.T @ y).to(self._sum_yy)

    def _centred(self, states: list[Tensor], shift: Tensor) -> list[Tensor]:
        dtype = torch.float32 if self.products == "float32" else torch.float64
        return [rows.to(dtype) - shift[i].to(rows.device, dtype) for i, rows in enumerate(states)]

    def pair(self, source_layer: int, target_layer: int) -> Moments:
        """The moments of one pair of layers, copied. Raises ValueError for a layer not in the grid."""
        return Moments.from_tensors(self._blocks(source_layer, target_layer))

    def _blocks(self, source_layer: int, target_layer: int) -> dict[str, Tensor]:
        """One pair's sums by the names of `Moments.tensors`, as views."""
        for side, layer, layers in (
            ("source", source_layer, self.source_layers),
            ("target", target_layer, self.target_layers),
        ):
            if layer not in layers:
                raise ValueError(f"{side} layer {layer} is not in the grid of layers {list(layers)}")
        i, j = self.source_layers.index(source_layer), self.target_layers.index(target_layer)
        return {
            "count": torch.tensor([self.count], dtype=torch.int64),
            "float64_products": torch.tensor([self.products == "float64"]),
            "shift_x": self._shift_x[i],
            "shift_y": self._shift_y[j],
            "sum_x": self._sum_x[i],
            "sum_y": self._sum_y[j],
            "sum_xx": self._sum_xx[i],
            "sum_xy": self._sum_xy[i, j],
            "sum_yy": self._sum_yy[j],
        }

    def merge(self, other: GridMoments) -> GridMoments:
        """Moments of the rows of both, as a new object; each pair as `Moments.merge` gives it.

        Raises ValueError where the layers or widths differ.
        """
        grids = [(g.source_layers, g.d_source, g.target_layers, g.d_target) for g in (self, other)]
        if grids[0] != grids[1]:
            raise ValueError(
                "grids of different layers or widths cannot be merged: "
                + " and ".join(f"{list(s)} x {ds} -> {list(t)} x {dt}" for s, ds, t, dt in grids)
            )
        merged = GridMoments(*grids[0], products=self.products, device=self._sum_x.device)
        merged.count = self.count + other.count
        for s in self.source_layers:
            for t in self.target_layers:
                pair = self.pair(s, t).merge(other.pair(s, t)).tensors()
                blocks = merged._blocks(s, t)
                for name in set(blocks) - {"count", "float64_products"}:
                    blocks[name].copy_(pair[name])
        return merged

    def tensors(self) -> dict[str, Tensor]:
        """The sums as plain tensors; `from_tensors` gives the same grid back, bit for bit."""
        return {
            "count": torch.tensor([self.count], dtype=torch.int64),
            "float64_products": torch.tensor([self.products == "float64"]),
            "source_layers": torch.tensor(self.source_layers, dtype=torch.int64),
            "target_layers": torch.tensor(self.target_layers, dtype=torch.int64),
            "shift_x": self._shift_x,
            "shift_y": self._shift_y,
            "sum_x": self._sum_x,
            "sum_y": self._sum_y,
            "sum_xx": self._sum_xx,
            "sum_xy": self._sum_xy,
            "sum_yy": self._sum_yy,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> GridMoments:
        """A grid from what `tensors` gave. Raises ValueError where a part is missing."""
        empty = cls([0], 1, [0], 1).tensors()
        if set(tensors) != set(empty):
            raise ValueError(f"not moments of a grid: found {sorted(tensors)}, need {sorted(empty)}")
        grid = cls(
            tensors["source_layers"].tolist(),
            tensors["sum_xy"].shape[2],
            tensors["target_layers"].tolist(),
            tensors["sum_xy"].shape[3],
            products="float64" if bool(tensors["float64_products"]) else "float32",
            device=tensors["sum_xy"].device,
        )
        grid.count = int(tensors["count"])
        for name, own in grid.tensors().items():
            if name.startswith(("shift", "sum")):
                own.copy_(tensors[name])
        return grid


def atlas_bytes(
    source_layers: Sequence[int],
    d_source: int,
    target_layers: Sequence[int],
    d_target: int,
    copies: int,
) -> int:
    """Bytes of the sums of `copies` `GridMoments` (folds, validation, test): float64, exact."""
    S, T = len(source_layers), len(target_layers)
    numbers = (
        S * d_source**2 + T * d_target**2 + S * T * d_source * d_target + 2 * (S * d_source + T * d_target)
    )
    return copies * numbers * 8


def check_grid(
    source_layers: Sequence[int],
    d_source: int,
    target_layers: Sequence[int],
    d_target: int,
    copies: int,
    limit_bytes: int,
) -> None:
    """Raises ValueError where the moments of a grid would not fit in `limit_bytes`."""
    need = atlas_bytes(source_layers, d_source, target_layers, d_target, copies)
    if need > limit_bytes:
        raise ValueError(
            f"moments of a grid of {len(source_layers)} x {len(target_layers)} layers, {copies} times over, "
            f"need {need / 1e9:.3g} GB of memory and the limit is {limit_bytes / 1e9:.3g} GB: thin the grid "
            "(fewer blocks in layers.source and layers.target)"
        )


class SharedRidge:
    """The source side of `ridge_path`, decomposed once for any number of targets of the same rows.

    `train` and `validation` are the moments of the source layer with any one of the targets. Raises
    ValueError where the source rows do not vary or the widths of both differ.
    """

    def __init__(self, train: Moments, validation: Moments, *, bias: bool = True) -> None:
        if train.d_source != validation.d_source:
            raise ValueError(
                f"training rows have {train.d_source} source dimensions, validation rows have "
                f"{validation.d_source}"
            )
        self._bias = bias
        fitted = self._fitted(train)
        scatter = fitted.scatter_xx
        mean_eigenvalue = float(scatter.trace()) / train.d_source
        if not mean_eigenvalue > 0:
            raise ValueError("the source rows do not vary, so no map can be fitted to them")
        self._count, self._mean_x = train.count, fitted.mean_x
        eigenvalues, self._V = torch.linalg.eigh(scatter)
        self._eigenvalues = eigenvalues.clamp(min=0)
        self._path = (RELATIVE_WEIGHTS * mean_eigenvalue).to(scatter)
        self._inverse = self._inverse_at(self._path)  # [k, d_source]
        self._off_x = validation.mean_x - self._mean_x
        self._Q = (
            self._V.T @ _about(validation.scatter_xx, validation.count, self._off_x, self._off_x) @ self._V
        )

    def _fitted(self, train: Moments) -> Moments:
        return train if self._bias else train.about_origin()

    def _inverse_at(self, weights: Tensor) -> Tensor:  # [k] to [k, d_source]
        shrunk = self._eigenvalues + weights[:, None]
        # Directions that the rows never visit have no image (0/0 at weight zero).
        return torch.where(shrunk > self._eigenvalues.max() * 1e-14, 1 / shrunk, 0.0)

    def fit(self, train: Moments, validation: Moments) -> RidgeFit:
        """What `ridge_path` gives for these moments, at the cost of products alone.

        Raises ValueError for source rows other than those that were decomposed, and for validation
        rows of another width or that do not vary.
        """
        fitted = self._own(train)
        if (train.d_source, train.d_target) != (validation.d_source, validation.d_target):
            raise ValueError(
                f"training moments are {train.d_source} -> {train.d_target}, validation moments "
                f"{validation.d_source} -> {validation.d_target}"
            )
        total = validation.scatter_yy.trace()
        if not total > 0:
            raise ValueError("the validation rows do not vary: give the corpus more documents")
        off_y = validation.mean_y - fitted.mean_y
        P = self._V.T @ fitted.scatter_xy
        R = self._V.T @ _about(validation.scatter_xy, validation.count, self._off_x, off_y)
        M = self._Q * (P @ P.T)
        squared = (
            total
            + validation.count * off_y.square().sum()
            - 2 * self._inverse @ (R * P).sum(1)
            + ((self._inverse @ M) * self._inverse).sum(1)
        )
        curve = (squared / total).clamp(min=0)
        best = int(curve.argmin())
        weight = (self._V @ (self._inverse[best, :, None] * P)).T.contiguous()
        affine = AffineMap(weight, fitted.mean_y - weight @ fitted.mean_x)
        return RidgeFit(affine, float(self._path[best]), float(curve[best]), self._path, curve)

    def target_basis(self, train: Moments, weight: float) -> Tensor:  # [d_target, k], orthonormal columns
        """Target directions of reduced-rank regression with ridge, most explained first (Izenman, 1975).

        The best map of rank `r` at this ridge weight is the whole one projected on the first `r`: they
        are eigenvectors of `Sxy'(Sxx + weight I)^-1 Sxy`, found on the narrower side. Those that carry
        under 1e-12 of the first are left out.
        """
        d = self._inverse_at(self._path.new_tensor([weight]))[0]
        M = d.sqrt()[:, None] * (self._V.T @ self._own(train).scatter_xy)
        values, vectors = torch.linalg.eigh(M @ M.T if train.d_source < train.d_target else M.T @ M)
        values, vectors = values.flip(0), vectors.flip(1)
        kept = values > values[0].clamp(min=0) * 1e-12
        values, vectors = values[kept], vectors[:, kept]
        basis: Tensor = vectors
        if train.d_source < train.d_target:
            basis = M.T @ vectors / values.sqrt()
        return basis

    def _own(self, train: Moments) -> Moments:
        fitted = self._fitted(train)
        if train.count != self._count or not torch.equal(fitted.mean_x, self._mean_x):
            raise ValueError(
                "these are other source rows than those that were decomposed: make another SharedRidge"
            )
        return fitted


def atlas(
    train: Moments | GridMoments,
    validation: Moments | GridMoments,
    test: Moments | GridMoments,
    source: Stack,
    target: Stack,
    vectors: Mapping[str, tuple[Tensor, Tensor]],  # name: source [S d_source], native target [T d_target]
    *,
    bias: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[AtlasCell]:
    """A cell for every source layer with every target layer, in the order of the stacks.

    The moments are of stacked rows or of a grid of the same layers. `vectors` hold each steering
    vector at all layers of the source and its native counterpart at all of the target, stacked alike.
    `progress` is called with the cells done and their number.

    Costs one eigendecomposition per source layer, one of the narrower width per cell for its rank, and
    products. Raises ValueError, before any of it, for moments or vectors of other widths, a vector that
    is zero or not finite at a layer, and moments without rows.
    """
    for name, moments in (("training", train), ("validation", validation), ("test", test)):
        _check_layers(moments, source, target, name)
    units = {
        name: (_units(pair[0], source, name, "source"), _units(pair[1], target, name, "target"))
        for name, pair in vectors.items()
    }
    cells: list[AtlasCell] = []
    for s in source.layers:
        ridge: SharedRidge | None = None
        for t in target.layers:
            fitted, chosen, scored = (_pair(m, source, target, s, t) for m in (train, validation, test))
            ridge = ridge or SharedRidge(fitted, chosen, bias=bias)
            fit = ridge.fit(fitted, chosen)
            along = {name: (own[s].to(fit.map.weight), native[t]) for name, (own, native) in units.items()}
            basis = ridge.target_basis(fitted, fit.weight)
            cells.append(
                AtlasCell(
                    source_layer=s,
                    target_layer=t,
                    fvu=scored.fvu_of(fit.map),
                    weight=fit.weight,
                    cka=_linear_cka(fitted),
                    rank=_least_rank(scored, fit.map, basis, fitted.mean_x if bias else None),
                    error_along={
                        name: scored.error_along(fit.map, native) for name, (_, native) in along.items()
                    },
                    cosine={
                        name: _cosine(fit.map.directions(v), native) for name, (v, native) in along.items()
                    },
                )
            )
            if progress is not None:
                progress(len(cells), len(source.layers) * len(target.layers))
    return cells


def choose_layers(
    cells: Iterable[AtlasCell],
    vector: str,
    steerable_source: Collection[int],
    target: int,
) -> int:
    """Source layer for a vector: of those that steer the source itself, the least error along it.

    FVU alone favours early layers, which predict well and do not steer. Ties go to the earlier layer.
    Raises ValueError where the atlas has no such target layer or vector, or no layer that steers.
    """
    column = [cell for cell in cells if cell.target_layer == target]
    if not column:
        raise ValueError(f"target layer {target} is not in the atlas: add it to layers.target")
    if vector not in column[0].error_along:
        raise ValueError(f"the atlas has no vector {vector!r}; it has {sorted(column[0].error_along)}")
    steering = [cell for cell in column if cell.source_layer in steerable_source]
    if not steering:
        raise ValueError(
            f"no source layer of the atlas, {sorted(cell.source_layer for cell in column)}, steers the "
            f"source itself by {vector!r} (those that do: {sorted(steerable_source)}): add such blocks to "
            "layers.source"
        )
    return min(steering, key=lambda cell: (cell.error_along[vector], cell.source_layer)).source_layer


def _rows(states: Mapping[int, Tensor], layers: tuple[int, ...], width: int, side: str) -> list[Tensor]:
    if set(states) != set(layers):
        raise ValueError(f"expected rows of {side} layers {list(layers)}, got {sorted(states)}")
    rows = [states[layer] for layer in layers]
    for layer, each in zip(layers, rows, strict=True):
        if each.ndim != 2 or each.shape != (len(rows[0]), width):
            raise ValueError(
                f"expected rows [n, {width}] of every {side} layer, got {list(each.shape)} of {layer}"
            )
        bad = len(each) - int(each.isfinite().all(1).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(each)} rows of {side} layer {layer} are non-finite: leave them out, or "
                f"record them again in a wider dtype (pair.{side}.dtype)"
            )
    return rows


def _check_layers(moments: Moments | GridMoments, source: Stack, target: Stack, name: str) -> None:
    if isinstance(moments, GridMoments):
        found = (moments.source_layers, moments.d_source), (moments.target_layers, moments.d_target)
        wanted = (source.layers, source.width), (target.layers, target.width)
        if found != wanted:
            raise ValueError(f"{name} moments are of layers and widths {found}, the stacks of {wanted}")
    elif (moments.d_source, moments.d_target) != (source.total, target.total):
        raise ValueError(
            f"{name} moments are {moments.d_source} -> {moments.d_target}, the stacks "
            f"{source.total} -> {target.total}"
        )
    if moments.count == 0:
        raise ValueError(f"the {name} moments have seen no rows: give the corpus more documents")


def _units(stacked: Tensor, stack: Stack, name: str, side: str) -> dict[int, Tensor]:
    if stacked.shape != (stack.total,):
        raise ValueError(
            f"vector {name} needs {stack.total} numbers on the {side} side, got {list(stacked.shape)}"
        )
    units = {}
    for layer in stack.layers:
        try:
            units[layer] = unit_vector(stack.part(stacked, layer), stack.width)
        except ValueError as wrong:
            raise ValueError(f"vector {name} at {side} layer {layer}: {wrong}") from None
    return units


def _pair(moments: Moments | GridMoments, source: Stack, target: Stack, s: int, t: int) -> Moments:
    if isinstance(moments, GridMoments):
        return moments.pair(s, t)
    return moments.part(source.columns(s), target.columns(t))


def _about(scatter: Tensor, count: int, off_left: Tensor, off_right: Tensor) -> Tensor:
    """A centred scatter moved to other means, this far off."""
    return scatter + count * torch.outer(off_left, off_right)


def _linear_cka(moments: Moments) -> float:
    """`||Sxy||^2 / (||Sxx|| ||Syy||)` in Frobenius norms (Kornblith et al., 2019), 0 for a constant side."""
    norms = moments.scatter_xx.norm() * moments.scatter_yy.norm()
    return float(moments.scatter_xy.square().sum() / norms) if norms > 0 else 0.0


def _least_rank(
    test: Moments,
    affine: AffineMap,
    basis: Tensor,  # [d_target, k], orthonormal, most explained first
    mean_x: Tensor | None,  # of the training rows; None for a fit without a bias
) -> int:
    """Least rank that explains `RANK_SHARE` of what the whole map explains on the test rows.

    What rank `r` explains adds up over the first `r` target directions, so one product gives all ranks.
    """
    centre_x = torch.zeros_like(test.mean_x) if mean_x is None else mean_x
    off_x, off_y = test.mean_x - centre_x, test.mean_y - affine.points(centre_x)
    A = basis.T @ affine.weight  # [k, d_source]
    with_target = A @ _about(test.scatter_xy, test.count, off_x, off_y) @ basis
    of_source = A @ _about(test.scatter_xx, test.count, off_x, off_x)
    gained = 2 * with_target.diagonal() - (of_source * A).sum(1)
    explained = torch.cat([gained.new_zeros(1), gained.cumsum(0)]) - test.count * off_y.square().sum()
    if not explained[-1] > 0:
        return 0
    return int((explained >= RANK_SHARE * explained[-1]).nonzero()[0])


def _cosine(image: Tensor, native: Tensor) -> float:
    return float(torch.cosine_similarity(image.double(), native.to(image), dim=0, eps=1e-300))
