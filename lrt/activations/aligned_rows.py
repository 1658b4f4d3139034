"""Spans of characters in the tokens of both models, and how their tokens become rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lrt.activations.filter import RowFilter
from lrt.corpora import BOUNDS, PADDING
from lrt.errors import InvalidValue
from lrt.models.sides import SIDES, Side

ALIGNED_FACTS = ("position", "document", "group", "token.source", "token.target", *BOUNDS)
"""Columns that decide which row a token belongs to, where the two models have different tokens."""


@dataclass(frozen=True)
class Spans:
    """The `m` spans of `n` places for tokens, in whole sequences.

    place   [m] where each span's facts are.
    first   [m] by side, the place of its first token.
    last    [m] by side, the place of its last token.
    text    [m] bool, whether it has characters; the end of a document's rendering has none.
    """

    place: Tensor
    first: Mapping[Side, Tensor]
    last: Mapping[Side, Tensor]
    text: Tensor

    @classmethod
    def of(cls, facts: Mapping[str, Tensor]) -> Self:
        """The spans of facts with the columns `ALIGNED_FACTS`."""
        place = (facts["document"] != PADDING).nonzero().flatten()
        begin = place - facts["position"][place].long()  # of the sequence
        first = {side: begin + facts[f"start.{side}"][place].long() for side in SIDES}
        last = {side: begin + facts[f"stop.{side}"][place].long() - 1 for side in SIDES}
        return cls(place, first, last, facts["start.text"][place] < facts["stop.text"][place])

    def excluded(
        self,
        filter_: RowFilter,
        norms: Mapping[str, Tensor],  # [n] by column
        medians: Mapping[str, float],
        facts: Mapping[str, Tensor],
        single: Tensor,  # [m] bool, spans of which the last tokens alone are rows
    ) -> dict[str, Tensor]:
        """[m] bool by reason: spans with an excluded token in either model.

        Raises InvalidValue for a filter of token ids, which are of one vocabulary.
        """
        if filter_.token_ids:
            raise InvalidValue(
                f"filter.token_ids={list(filter_.token_ids)}: the two models have different tokenizers, so "
                "an id is another token in each; remove it"
            )
        taken = torch.zeros_like(single)
        by_side: dict[str, Tensor] = {}
        for side in SIDES:
            own = {name: norm for name, norm in norms.items() if f"{side}." in name}
            tokens = facts[f"token.{side}"]
            of_tokens = filter_.excluded(own, dict(medians), facts["position"], tokens)
            for reason, mask in of_tokens.items():
                counts = torch.cat([torch.zeros(1, dtype=torch.int64), mask.long().cumsum(0)])
                first = torch.where(single, self.last[side], self.first[side])
                some = counts[self.last[side] + 1] > counts[first]
                by_side[reason] = by_side.get(reason, torch.zeros_like(taken)) | some
        reasons = {}
        for reason, mask in by_side.items():
            reasons[reason] = mask & ~taken
            taken |= mask
        return reasons

    def rows_of_tokens(self, row: Tensor, single: Tensor, places: int) -> dict[Side, Tensor]:
        """The row that each model's token belongs to, or -1, `[places]` by side, from that of its span."""
        kept = row >= 0
        rows = {}
        for side in SIDES:
            last = self.last[side][kept]
            first = torch.where(single[kept], last, self.first[side][kept])
            sizes = last - first + 1
            begins = sizes.cumsum(0) - sizes
            within = torch.arange(int(sizes.sum())) - begins.repeat_interleave(sizes)
            of = torch.full((places,), -1, dtype=torch.int64)
            of[first.repeat_interleave(sizes) + within] = row[kept].repeat_interleave(sizes)
            rows[side] = of
        return rows
