"""Moments of every pair of source and target layers from one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.moments import CHUNK_ROWS, Moments, Products, exact_products


class GridMoments:
    """Moments of every pair of source and target layers.

    For `S` source and `T` target layers it holds `S` source scatters, `T` target scatters and `S T` cross
    scatters, `atlas_bytes` in all. Moments of the concatenated layers would also hold the scatters between
    source layers and between target layers. `products` and `device` are as in `Moments`.

    Raises InvalidValue for no layers or one named twice, ValueError for widths below 1 or unknown products.
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
                raise InvalidValue(
                    f"atlas.{side}={list(layers)}: name at least one layer, and each only once"
                )
        if d_source < 1 or d_target < 1:
            raise ValueError(f"widths must be at least 1, got {d_source} and {d_target}")
        if products not in ("float32", "float64"):
            raise ValueError(f"products must be float32 or float64, got {products!r}")
        self.source_layers = tuple(source_layers)
        self.target_layers = tuple(target_layers)
        self.d_source = d_source
        self.d_target = d_target
        self.products = products
        self.count = 0
        S, T = len(source_layers), len(target_layers)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        # As in `Moments`: sums of the rows minus a shift that is exact in float32.
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
        """Add paired rows of every layer.

        Raises, with nothing added, InvalidValue for rows that are not finite, and ValueError for other layers
        or shapes.
        """
        xs = _rows(source, self.source_layers, self.d_source, "source")
        ys = _rows(target, self.target_layers, self.d_target, "target")
        if len(xs[0]) != len(ys[0]):
            raise ValueError(f"rows must be pairs, got {len(xs[0])} source rows and {len(ys[0])} target rows")
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
        with exact_products(xs[0].device):
            for i, x in enumerate(centred_x):
                self._sum_x[i] += x.sum(0, dtype=torch.float64).to(self.device)
                self._sum_xx[i] += (x.T @ x).to(self.device)
                for j, y in enumerate(centred_y):
                    self._sum_xy[i, j] += (x.T @ y).to(self.device)
            for j, y in enumerate(centred_y):
                self._sum_y[j] += y.sum(0, dtype=torch.float64).to(self.device)
                self._sum_yy[j] += (y.T @ y).to(self.device)

    def _centred(self, states: list[Tensor], shift: Tensor) -> list[Tensor]:
        dtype = torch.float32 if self.products == "float32" else torch.float64
        return [rows.to(dtype) - shift[i].to(rows.device, dtype) for i, rows in enumerate(states)]

    @property
    def device(self) -> torch.device:
        """Where the sums lie."""
        return self._sum_xx.device

    def to(self, device: torch.device | str) -> GridMoments:
        """The same sums on another device; themselves where they lie there already."""
        if self.device == torch.device(device):
            return self
        return GridMoments.from_tensors(self.tensors(), device)

    def pair(self, source_layer: int, target_layer: int) -> Moments:
        """A copy of the moments of one pair of layers. Raises ValueError for a layer not in the grid."""
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
        """Moments of the rows of both, as a new object; each pair is merged as by `Moments.merge`.

        Raises ValueError where the layers or widths differ.
        """
        return self._combined(other, Moments.merge)

    def without(self, other: GridMoments) -> GridMoments:
        """Moments of the rows that are left without those of `other`, as by `Moments.without`."""
        return self._combined(other, Moments.without)

    def _combined(self, other: GridMoments, of_pair: Callable[[Moments, Moments], Moments]) -> GridMoments:
        grids = [(g.source_layers, g.d_source, g.target_layers, g.d_target) for g in (self, other)]
        if grids[0] != grids[1]:
            raise ValueError(
                "grids of different layers or widths cannot be combined: "
                + " and ".join(f"{list(s)} x {ds} -> {list(t)} x {dt}" for s, ds, t, dt in grids)
            )
        combined = GridMoments(*grids[0], products=self.products, device=self.device)
        for s in self.source_layers:
            for t in self.target_layers:
                pair = of_pair(self.pair(s, t), other.pair(s, t))
                combined.count = pair.count
                blocks, tensors = combined._blocks(s, t), pair.tensors()
                for name in set(blocks) - {"count", "float64_products"}:
                    blocks[name].copy_(tensors[name])
        return combined

    def tensors(self) -> dict[str, Tensor]:
        """The sums as plain tensors, from which `from_tensors` restores the same grid exactly."""
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
    def from_tensors(
        cls, tensors: dict[str, Tensor], device: torch.device | str | None = None
    ) -> GridMoments:
        """A grid from the tensors of `tensors`, on their device where none is given.

        Raises ValueError where one is missing.
        """
        empty = cls([0], 1, [0], 1).tensors()
        if set(tensors) != set(empty):
            raise ValueError(
                f"these are no moments of a grid: got tensors {sorted(tensors)}, expected {sorted(empty)}"
            )
        grid = cls(
            tensors["source_layers"].tolist(),
            tensors["sum_xy"].shape[2],
            tensors["target_layers"].tolist(),
            tensors["sum_xy"].shape[3],
            products="float64" if bool(tensors["float64_products"]) else "float32",
            device=tensors["sum_xy"].device if device is None else device,
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
    """Exact bytes of the float64 sums of `copies` `GridMoments`."""
    S, T = len(source_layers), len(target_layers)
    numbers = (
        S * d_source**2 + T * d_target**2 + S * T * d_source * d_target + 2 * (S * d_source + T * d_target)
    )
    return copies * numbers * 8


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
            raise InvalidValue(
                f"{bad} of {len(each)} rows of {side} layer {layer} are not finite: skip them "
                f"(recording.non_finite), or record in a wider dtype (pair.{side}.dtype)"
            )
    return rows
