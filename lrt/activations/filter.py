"""Which tokens are excluded from fits and metrics: massive activations and the positions they occur at.

A few tokens carry most of a residual stream's variance (Sun et al. 2024, arXiv 2402.17762): position 0 of
every sequence, and some later delimiters. Least squares would fit little else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrt.errors import InvalidValue


@dataclass(frozen=True)
class RowFilter:
    """Tokens to exclude. Tokens whose state is infinite or NaN are always excluded.

    max_norm_ratio  Exclude tokens whose norm is over this multiple of the median norm, in either model; None
                    keeps them.
    first_position  Exclude position 0 of every sequence.
    token_ids       Exclude these tokens (special and template ids).

    Raises InvalidValue for `max_norm_ratio` of 1 or less.
    """

    max_norm_ratio: float | None = 10.0
    first_position: bool = True
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_norm_ratio is not None and not self.max_norm_ratio > 1:
            raise InvalidValue(
                f"filter.max_norm_ratio={self.max_norm_ratio}; it is a multiple of the median norm and "
                "must be over 1 (or null to keep massive tokens)"
            )
        object.__setattr__(self, "token_ids", tuple(int(t) for t in self.token_ids))

    def excluded(
        self,
        norms: dict[str, Tensor],  # [n] by column: Euclidean norms of a token's states
        medians: dict[str, float],  # by the same columns
        positions: Tensor,  # [n]
        tokens: Tensor,  # [n]
    ) -> dict[str, Tensor]:  # [n] bool by reason
        """Which tokens are excluded, by reason. A token with several reasons is under the first of them."""
        taken = torch.zeros_like(positions, dtype=torch.bool)
        reasons: dict[str, Tensor] = {}

        def exclude(reason: str, mask: Tensor) -> None:
            reasons[reason] = mask & ~taken
            taken.logical_or_(mask)

        finite = torch.ones_like(taken)
        for norm in norms.values():
            finite &= norm.isfinite()
        if not finite.all():  # only with recording.non_finite=exclude, so most tables need no such column
            exclude("non-finite", ~finite)
        if self.first_position:
            exclude("first position", positions == 0)
        if self.token_ids:
            exclude("token", torch.isin(tokens, torch.tensor(self.token_ids, dtype=tokens.dtype)))
        if self.max_norm_ratio is not None:
            over = torch.zeros_like(taken)
            for column, norm in norms.items():
                over |= norm > self.max_norm_ratio * medians[column]
            exclude("massive", over)
        return reasons
