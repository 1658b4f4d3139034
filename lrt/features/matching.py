"""Match the features of two autoencoders by the tokens at which they are active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.moments import exact_products


class CoActivation:
    """Accumulates the correlation over tokens of every feature of `a` with every feature of `b`.

    Only sums are held: `8 m_a m_b` bytes, whatever the corpus. Products of a batch are float32, sums float64.
    They are summed on `device`. Raises ValueError for sizes below 1.
    """

    def __init__(self, m_a: int, m_b: int, device: torch.device | str = "cpu") -> None:
        if m_a < 1 or m_b < 1:
            raise ValueError(f"both autoencoders must have at least one feature, got {m_a} and {m_b}")
        self.count = 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._sums, self._squares = [zeros(m_a), zeros(m_b)], [zeros(m_a), zeros(m_b)]
        self._products = zeros(m_a, m_b)

    def update(
        self,
        fa: Tensor,  # [n, m_a]
        fb: Tensor,  # [n, m_b], of the same tokens
    ) -> None:
        """Add activations. Raises InvalidValue where they are not finite, ValueError for other shapes."""
        m_a, m_b = self._products.shape
        if fa.ndim != 2 or fb.ndim != 2 or fa.shape != (len(fb), m_a) or fb.shape[1] != m_b:
            raise ValueError(
                f"expected activations [n, {m_a}] and [n, {m_b}] of the same tokens, got "
                f"{list(fa.shape)} and {list(fb.shape)}"
            )
        if not (fa.isfinite().all() and fb.isfinite().all()):
            raise InvalidValue(
                "feature activations are not finite: exclude them (recording.non_finite=exclude), or record "
                "in a wider dtype (pair.source.dtype, pair.target.dtype)"
            )
        device = self._products.device
        fa, fb = fa.detach().to(device, torch.float32), fb.detach().to(device, torch.float32)
        self.count += len(fa)
        with exact_products(device):
            self._products += (fa.T @ fb).double()
        for side, f in enumerate((fa, fb)):
            self._sums[side] += f.sum(0, dtype=torch.float64)
            self._squares[side] += f.double().square().sum(0)

    def correlation(self) -> Tensor:  # [m_a, m_b], float64
        """Pearson's r over tokens; zero where a feature does not vary. Raises InvalidValue for no rows."""
        if self.count == 0:
            raise InvalidValue("there are no rows to match features on: the corpus or split is empty")
        covariance = self._products - torch.outer(self._sums[0], self._sums[1]) / self.count
        inverse = []
        for total, squares in zip(self._sums, self._squares, strict=True):
            scatter = squares - total.square() / self.count
            # A smaller share is rounding error of a constant feature.
            varies = scatter > 1e-9 * squares
            inverse.append(torch.where(varies, scatter.clamp(min=1e-300).rsqrt(), 0.0))
        return (covariance * inverse[0][:, None] * inverse[1]).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of features on the CPU, best first: `a[i]` of one autoencoder with `b[i]` of the other."""

    a: Tensor  # [k], int64
    b: Tensor  # [k], int64
    correlation: Tensor  # [k], float64, descending

    def __len__(self) -> int:
        return len(self.a)


def match_correlated(
    correlation: Tensor,  # [m_a, m_b]
    least: float = 0.0,
) -> Matching:
    """Greedy one-to-one matching: repeatedly takes the best remaining pair with a correlation above `least`.

    Computed in rounds of mutually best pairs, which gives the same pairs. The sum of correlations is at least
    half of the optimal assignment's, and equals it where true partners are each other's best. The exact
    assignment would need scipy. Raises ValueError for another shape, entries that are not finite, or `least`
    outside [0, 1).
    """
    if correlation.ndim != 2 or not correlation.isfinite().all():
        raise ValueError(f"correlations must be finite [m_a, m_b], got shape {list(correlation.shape)}")
    if not 0 <= least < 1:
        raise ValueError(f"the least correlation of a match must lie in [0, 1), got {least}")
    left = correlation.double()
    rows, columns = (torch.arange(m, device=left.device) for m in left.shape)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    while left.numel():
        best_of_row, best_of_column = left.argmax(1), left.argmax(0)
        here = torch.arange(len(rows), device=left.device)
        values = left[here, best_of_row]
        mutual = (best_of_column[best_of_row] == here) & (values > least)
        if not mutual.any():
            break
        pairs.append((rows[mutual], columns[best_of_row[mutual]], values[mutual]))
        column_left = torch.ones(len(columns), dtype=torch.bool, device=left.device)
        column_left[best_of_row[mutual]] = False
        left = left[~mutual][:, column_left]
        rows, columns = rows[~mutual], columns[column_left]
    if not pairs:
        pairs = [(rows[:0], columns[:0], left.new_zeros(0))]
    a, b, correlations = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    order = correlations.argsort(descending=True, stable=True)
    return Matching(a[order], b[order], correlations[order])


def match_features(
    acts_a: Tensor,  # [n, m_a]
    acts_b: Tensor,  # [n, m_b], of the same tokens
    least: float = 0.0,
) -> Matching:
    """Features matched by the correlation of their activations over the same tokens.

    For a corpus that does not fit in memory use `CoActivation` and `match_correlated`. Raises as those do.
    """
    co_activation = CoActivation(acts_a.shape[-1], acts_b.shape[-1], acts_a.device)
    co_activation.update(acts_a, acts_b)
    return match_correlated(co_activation.correlation(), least)
