"""Baseline maps that a fitted map should beat."""

from __future__ import annotations

import torch
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.mapping.affine import AffineMap
from lrt.mapping.moments import Moments
from lrt.mapping.ridge import ridge_at, ridge_path

# Every tenth token of the vocabulary chooses the ridge weight; the others fit.
HELD_OUT_EVERY = 10


def mean_only(train: Moments) -> AffineMap:
    """The constant map `x -> mean_y`, float64 on the CPU. Its FVU is 1.0."""
    mean_y = train.mean_y
    return AffineMap(mean_y.new_zeros(train.d_target, train.d_source), mean_y).to("cpu")


def identity(train: Moments) -> AffineMap:
    """The map `x -> x - mean_x + mean_y`, float64, which transfers a vector unchanged.

    Raises InvalidValue where the widths differ.
    """
    if train.d_source != train.d_target:
        raise InvalidValue(
            f"the identity map needs equal widths, got source width {train.d_source} and target width "
            f"{train.d_target}: choose another baseline for this pair"
        )
    mean_x, mean_y = train.mean_x.cpu(), train.mean_y.cpu()
    return AffineMap(torch.eye(train.d_source).to(mean_x), mean_y - mean_x)


def from_embeddings(
    source_embedding: Tensor,  # [V, d_source], any float dtype
    target_embedding: Tensor,  # [V, d_target], any float dtype
    train: Moments,
) -> AffineMap:
    """The ridge map between two models' input embeddings, with the bias of the training rows, float64.

    Row `i` of both matrices is token `i` of the shared vocabulary, as it enters the residual stream: scaled
    where the model scales its embeddings.

    - The weight matrix is fitted on the embeddings alone, without hidden states.
    - The ridge weight is chosen on every tenth token. Most vocabularies are sorted by frequency, so this is
      a fair sample. The map is then fitted on all tokens at the same weight per row.
    - The bias `mean_y - W mean_x` uses the means of the hidden states in `train`. With those of embeddings
      the bias would hide how good the directions are.

    Raises InvalidValue for vocabularies of different sizes or under 20 tokens, non-finite entries, and
    embeddings that do not vary; ValueError for other shapes.
    """
    _check(source_embedding, target_embedding, train)
    device = train.device
    x, y = source_embedding.to(device), target_embedding.to(device)
    held_out = torch.arange(len(x), device=device) % HELD_OUT_EVERY == 0
    parts = []
    for chosen in (~held_out, held_out):
        part = Moments(train.d_source, train.d_target, device=device)
        part.update(x[chosen], y[chosen])
        parts.append(part)
    fitting, choosing = parts
    whole = fitting.merge(choosing)
    chosen_weight = ridge_path(fitting, choosing).weight
    weight = ridge_at(whole, chosen_weight * whole.count / fitting.count).weight
    return AffineMap(weight, train.mean_y.cpu() - weight @ train.mean_x.cpu())


def _check(source_embedding: Tensor, target_embedding: Tensor, train: Moments) -> None:
    for side, matrix, width in (
        ("source", source_embedding, train.d_source),
        ("target", target_embedding, train.d_target),
    ):
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError(
                f"the {side} embedding must be [vocabulary, {width}] like the hidden states, got "
                f"{list(matrix.shape)}"
            )
        lost = int((~matrix.isfinite()).any(1).sum())
        if lost:
            raise InvalidValue(
                f"the {side} embedding has non-finite entries in {lost} of {len(matrix)} tokens: load the "
                f"model in a wider dtype (pair.{side}.dtype)"
            )
    if len(source_embedding) != len(target_embedding):
        raise InvalidValue(
            f"the embeddings have {len(source_embedding)} (source) and {len(target_embedding)} (target) "
            "tokens, and must have the same: choose two models with one vocabulary, or another fit.solver"
        )
    if len(source_embedding) < 2 * HELD_OUT_EVERY:
        raise InvalidValue(
            f"a vocabulary of {len(source_embedding)} tokens is too small to fit a map and choose its ridge "
            f"weight: at least {2 * HELD_OUT_EVERY} are needed. Choose another fit.solver"
        )
