"""Batches of token sequences of unequal length, and each token's position in its sequence.

A mask row is one run of ones (the sequence) with zeros (padding) on either side. Positions count from the
sequence's first token, whatever the padding and the cache.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def pad(
    sequences: Sequence[Sequence[int]], side: Literal["left", "right"] = "left", fill: int = 0
) -> tuple[Tensor, Tensor]:
    """Pad sequences of token ids to one length: tokens and attention mask, both long `[n, longest]`.

    fill  The id on padding, which the mask hides from the model.

    Raises ValueError for an empty batch or sequence.
    """
    if not sequences or not all(sequences):
        raise ValueError("cannot pad an empty batch or an empty sequence of tokens")
    longest = max(map(len, sequences))
    tokens = torch.full((len(sequences), longest), fill, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence) if side == "left" else 0
        columns = slice(start, start + len(sequence))
        tokens[row, columns] = torch.as_tensor(sequence, dtype=torch.long)
        mask[row, columns] = 1
    return tokens, mask


def check_mask(mask: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless `mask` has that shape `[n, t]` and one run of ones in each row."""
    if mask.shape != shape:
        raise ValueError(
            f"attention mask has shape {list(mask.shape)}, the tokens have {list(shape)}: they must agree"
        )
    mask = mask.long()
    starts = mask[:, 0] + (mask.diff(dim=1) == 1).sum(dim=1)
    bad = (starts != 1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"attention mask of row {int(bad[0])} must be one run of ones: at least one token, with padding "
            "only left or right of the sequence"
        )


def positions_of(mask: Tensor) -> Tensor:
    """Absolute positions, long `[n, t]`, -1 on padding, of an attention mask `[n, t]`."""
    mask = mask.long()
    return mask.cumsum(dim=1) * mask - 1


def last_columns(mask: Tensor) -> Tensor:
    """The column of each row's last token, long `[n]`, of an attention mask `[n, t]`."""
    return positions_of(mask).argmax(dim=1)


def equal_length_parts(mask: Tensor) -> list[tuple[slice, slice]]:
    """Rows and columns of an attention mask `[n, t]`: runs of rows whose sequences fill the same columns."""
    mask = mask.long().cpu()
    spans = [(int(row.argmax()), int(row.sum())) for row in mask]
    parts: list[tuple[slice, slice]] = []
    begin = 0
    for row, (start, length) in enumerate(spans):
        if row + 1 == len(spans) or spans[row + 1] != (start, length):
            parts.append((slice(begin, row + 1), slice(start, start + length)))
            begin = row + 1
    return parts
