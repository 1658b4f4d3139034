"""Which rows leave the fit and its metrics: massive activations and the positions they live at.

A handful of tokens carry most of a residual stream's variance (Sun et al. 2024, arXiv 2402.17762):
position 0 of every sequence, and some later delimiters. Least squares sees nothing else while they
are in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowFilter:
    """Rows to leave out.

    max_norm_ratio: rows whose norm is over this many times the median norm, in either model; None keeps
    them.
    first_position: position 0 of every block.
    token_ids: rows of these tokens (special and template ids).

    Rows whose state is infinite or undefined always leave.
    """

    max_norm_ratio: float | None = 10.0
    first_position: bool = True
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_norm_ratio is not None and not self.max_norm_ratio > 1:
            raise ValueError(
                f"filter.max_norm_ratio is {self.max_norm_ratio}; it is a multiple of the median norm and must "
                "be over 1 (or null to keep massive rows)"
            )
        object.__setattr__(self, "token_ids", tuple(int(t) for t in self.token_ids))

    def left_out(
        self,
        norms: dict[str, Tensor],  # [n] by column: Euclidean norms of a row in each model
        medians: dict[str, float],  # by the same columns
        positions: Tensor,  # [n]
        tokens: Tensor,  # [n]
    ) -> dict[str, Tensor]:  # [n] bool by reason
        """Which rows leave, by reason. A row that has several is counted under the first of
        them.
        """
        taken = torch.zeros_like(positions, dtype=torch.bool)
        reasons: dict[str, Tensor] = {}

        def leave(reason: str, mask: Tensor) -> None:
            reasons[reason] = mask & ~taken
            taken.logical_or_(mask)

        finite = torch.ones_like(taken)
        for norm in norms.values():
            finite &= norm.isfinite()
        if not finite.all():  # told where there is one: recording.non_finite=exclude
            leave("non-finite", ~finite)
        if self.first_position:
            leave("first position", positions == 0)
        if self.token_ids:
            leave("token", torch.isin(tokens, torch.tensor(self.token_ids, dtype=tokens.dtype)))
        if self.max_norm_ratio is not None:
            over = torch.zeros_like(taken)
            for column, norm in norms.items():
                over |= norm > self.max_norm_ratio * medians[column]
            leave("massive", over)
        return reasons
