"""Steered passes that compute everything up to the steered layer only once per item.

Strengths and conditions differ only after the steered block. So a `Prefix` holds that block's output for
every item, and the tail (the blocks above, and the head) runs for many rows at once. A row is an item under
one condition. With `M` rows per item and layer `l` of `L` the work falls from `M L` blocks to
`l + M (L - l)`.

A family whose upper blocks read more than the residual stream, or whose cache cannot be put together in this
way, runs all blocks for every row: slower, with the same numbers (`lrt.models.capabilities`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrt.models.capabilities import decodes, resumes
from lrt.models.decoder_cache import empty_cache, put_below
from lrt.models.decoding import decode
from lrt.models.hooks import (
    AtLayer,
    Edit,
    RowwiseEdit,
    apply_edit,
    capture,
    edit_of_rows,
    resume_from,
    steer,
    stop_after,
)
from lrt.models.language_model import (
    Keep,
    LanguageModel,
    as_logits,
    columns_of,
)
from lrt.models.padding import check_mask, positions_of
from lrt.models.sampling import Sampling


@dataclass(frozen=True)
class Prefix:
    """Items run up to and including block `layer`, on the model's device.

    cache    What blocks 0 to `layer` keep of the tokens (a transformers cache), for `generate`.
    resumes  Whether the blocks above can start from `hidden`. If not, all blocks run for every row.
    decodes  Whether `generate` can use the cache. If not, each new token runs a whole pass.
    """

    tokens: Tensor  # [n, t] long
    mask: Tensor  # [n, t] long, one run of ones in each row
    layer: int
    hidden: Tensor  # [n, t, d] output of block `layer`
    cache: Any = None
    resumes: bool = True
    decodes: bool = True


@torch.no_grad()
def compute_prefix(
    lm: LanguageModel,
    tokens: Tensor,  # [n, t] long
    attention_mask: Tensor | None,  # [n, t]; None: no padding
    layer: int,
    cache: bool = True,
) -> Prefix:
    """Run items up to block `layer`.

    cache  Keep what `generate` needs; the prefix takes far less memory without.

    Raises InvalidValue for a layer that the model does not have, and ValueError for a bad mask.
    """
    layer = lm.resolve_layer(layer, "layer")
    tokens = tokens.to(lm.device)
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(lm.device).long()
    check_mask(mask, tokens.shape)
    tail = resumes(lm, layer)
    cached = cache and tail and lm.hides_padding and decodes(lm, layer)
    if not cached:
        hidden = lm.hidden_states(tokens, [layer], attention_mask if attention_mask is None else mask)[layer]
        return Prefix(tokens, mask, layer, hidden, None, tail, decodes=not cache)
    kept = empty_cache(lm)
    with capture(lm, [layer]) as states, stop_after(lm, layer):
        lm.run(tokens, mask, kept, head=False)
    return Prefix(tokens, mask, layer, states[layer].to(lm.device), kept)


@torch.no_grad()
def tail_logits(
    lm: LanguageModel,
    prefix: Prefix,
    rows: Tensor,  # [r] long, the item that each row repeats
    edit: Edit,
    keep: Keep = "last",
    max_rows: int | None = None,
    above: Sequence[int] = (),
) -> Tensor:
    """Next-token logits, float32 `[r, k, V]`, of rows whose hidden state at the prefix's layer is edited.

    Row `i` is item `rows[i]` with `edit(hidden, positions)[i]` as the output of block `prefix.layer`. The
    numbers are those of a whole steered pass, but only the tail is computed. Padding may be on either side.

    max_rows  A larger batch is split, which needs a `RowwiseEdit`.
    above     Further blocks above the prefix's whose outputs are edited in the same way.

    Raises ValueError for rows, edits, columns or blocks that do not fit.
    """
    columns = columns_of(keep, prefix.mask[_checked(rows, prefix)])
    _check_above(above, prefix)

    def run(part: slice, edit_: Edit) -> Tensor:
        columns_of_part = None if columns is None else columns[part]
        return _tail(lm, prefix, rows[part], edit_, columns_of_part, None, above)

    return torch.cat([run(part, edit_) for part, edit_ in _parts(len(rows), edit, max_rows)])


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prefix: Prefix,
    rows: Tensor,  # [r] long, the item that each row repeats
    edit: Edit,
    max_new_tokens: int,
    eos_ids: tuple[int, ...] = (),
    max_rows: int | None = None,
    progress: Callable[[int], None] | None = None,
    sampling: Sampling | None = None,
    above: Sequence[int] = (),
) -> Tensor:
    """Generate continuations, long `[r, max_new_tokens]`, steered at every prompt token and new token.

    Equals decoding by whole steered passes. Greedy without `sampling`. After its end a row is filled with the
    first of `eos_ids`. Prompts must be padded on the left.

    max_rows  A larger batch is split, which needs a `RowwiseEdit`.
    progress  Called after each token with the number of rows of its batch.
    above     Further blocks above the prefix's whose outputs are edited in the same way.

    Raises ValueError for a prefix without cache or with padding on the right, and for rows, edits or blocks
    that do not fit.
    """
    if prefix.cache is None and prefix.decodes:
        raise ValueError("this prefix was computed with cache=False; generation needs cache=True")
    if not bool(prefix.mask[:, -1].all()):
        raise ValueError("generation needs prompts padded on the left, and these are padded on the right")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}; at least 1 is needed")
    _checked(rows, prefix)
    _check_above(above, prefix)
    if sampling is not None and len(sampling.seeds) != len(prefix.tokens):
        raise ValueError(
            f"{len(sampling.seeds)} seeds for {len(prefix.tokens)} items; one seed per item is needed"
        )
    return torch.cat(
        [
            _generate(lm, prefix, rows[part], edit_, max_new_tokens, eos_ids, progress, sampling, above)
            for part, edit_ in _parts(len(rows), edit, max_rows)
        ]
    )


def _generate(
    lm: LanguageModel,
    prefix: Prefix,
    rows: Tensor,  # [r]
    edit: Edit,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    progress: Callable[[int], None] | None,
    sampling: Sampling | None,
    above: Sequence[int],
) -> Tensor:
    rows = rows.to(lm.device)
    text, mask = prefix.tokens[rows], prefix.mask[rows]
    cache = empty_cache(lm) if prefix.decodes else None
    edits = [AtLayer(layer, edit) for layer in (prefix.layer, *above)]

    def step(new: Tensor | None) -> Tensor:
        nonlocal text, mask
        if new is None:
            # The tail runs with an empty cache, so that its masks fit the prompt, and fills the part above
            # the layer. With the prefix's part it is as if the rows had run through all blocks.
            logits = _tail(lm, prefix, rows, edit, columns_of("last", mask), cache, above)
            if cache is not None:
                put_below(cache, prefix.cache, rows, prefix.layer)
            return logits[:, -1]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if cache is None:
            text = torch.cat([text, new], dim=1)
            return lm.logits(text, mask, edits, "last")[:, -1]
        with steer(lm, edits):
            return as_logits(lm.run(new, mask, cache))[:, -1]

    name = f"{lm.spec.name} ({lm.dtype})"
    return decode(step, rows, max_new_tokens, eos_ids, sampling, progress, model=name)


def _tail(
    lm: LanguageModel,
    prefix: Prefix,
    rows: Tensor,  # [r]
    edit: Edit,
    kept: Tensor | None,  # [r, k]
    cache: Any,
    above: Sequence[int] = (),
) -> Tensor:  # [r, k, V]
    rows = rows.to(lm.device)
    tokens, mask, before = prefix.tokens[rows], prefix.mask[rows], prefix.hidden[rows]

    @contextmanager
    def hooks(part: slice, columns: slice) -> Iterator[None]:
        own = edit if part == slice(0, len(rows)) else edit_of_rows(edit, part)
        hidden = apply_edit(own, before[part, columns], positions_of(mask[part, columns]))
        edits = [AtLayer(layer, own) for layer in above]
        if prefix.resumes:
            with resume_from(lm, prefix.layer, hidden), steer(lm, edits):
                yield
        else:
            with steer(lm, [AtLayer(prefix.layer, lambda *_: hidden), *edits]):
                yield

    return lm.logits_under(hooks, tokens, mask, kept, cache)


def _parts(rows: int, edit: Edit, max_rows: int | None) -> Iterator[tuple[slice, Edit]]:
    if max_rows is None or rows <= max_rows:
        yield slice(0, rows), edit
        return
    if max_rows < 1:
        raise ValueError(f"max_rows={max_rows}; at least 1 is needed")
    if not isinstance(edit, RowwiseEdit):
        raise ValueError(
            f"a batch of {rows} rows exceeds max_rows={max_rows}, and this edit cannot be split (it has no "
            "`take`); raise max_rows or pass a RowwiseEdit"
        )
    for start in range(0, rows, max_rows):
        part = slice(start, min(start + max_rows, rows))
        yield part, edit.take(part)


def _checked(rows: Tensor, prefix: Prefix) -> Tensor:
    items = len(prefix.tokens)
    if rows.ndim != 1 or not len(rows) or not 0 <= int(rows.min()) <= int(rows.max()) < items:
        raise ValueError(
            f"rows must be a non-empty [r] tensor of items 0..{items - 1}; got shape "
            f"{list(rows.shape)}" + (f" in {int(rows.min())}..{int(rows.max())}" if rows.numel() else "")
        )
    return rows.to(prefix.mask.device)


def _check_above(above: Sequence[int], prefix: Prefix) -> None:
    if not all(layer > prefix.layer for layer in above):
        raise ValueError(
            f"above={list(above)} must hold only blocks above the prefix's, block {prefix.layer}: the blocks "
            "below are computed once, before any edit"
        )
