"""Measures whether the decoder directions of two autoencoders are linearly related (paper section 2.2).

The paper fits one decoder matrix to the other by least squares, with features in the same order, and compares
with random matrices. Here features are matched by co-activation, the map is fitted on half of the pairs and
scored on the other half, and the score is compared with two nulls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.features.autoencoder import SparseAutoencoder
from lrt.features.matching import CoActivation, Matching, match_correlated
from lrt.mapping import Moments, ridge_at, ridge_path

# A quarter of the fitted half chooses the ridge weight, which needs at least two pairs.
LEAST_PAIRS = 16
DRAWS = 1000
# Far from the seeds of training, whose random start the null would otherwise repeat.
NULL_SEED = 0x5EED_0000


@dataclass(frozen=True)
class Interval:
    """A score with its 95% percentile-bootstrap interval over scored features."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DirectionScore:
    """How well decoder directions of one autoencoder predict the other's, on held-out pairs.

    r2      `1 - fvu`.
    fvu     1.0 for the mean direction, 0.0 for a perfect prediction, above 1 for one worse than the mean.
    cosine  Mean cosine of predicted and true directions.
    ridge   Ridge weight of the map.
    """

    r2: Interval
    fvu: Interval
    cosine: Interval
    ridge: float


@dataclass(frozen=True)
class DecoderScore:
    """Prediction between two decoders in both directions: `forward` is a -> b, `backward` b -> a."""

    forward: DirectionScore
    backward: DirectionScore
    fitted: int
    scored: int


@dataclass(frozen=True, eq=False)
class GeometryScore:
    """Decoder prediction between two autoencoders, and its nulls.

    matched       The decoders, with features paired by co-activation.
    random        The null of random decoders, matched in the same way on the same tokens. Its R2 need not be
                  zero: where states are related, random directions that are active together are related too.
                  None where fewer than 16 of their features match.
    shuffled      The null of the true decoders with the pairs permuted.
    matching      The pairs of `matched`.
    random_pairs  The number of pairs of `random`.
    """

    matched: DecoderScore
    random: DecoderScore | None
    shuffled: DecoderScore
    matching: Matching
    random_pairs: int


def decoder_map(
    D_a: Tensor,  # [k, d_a]
    D_b: Tensor,  # [k, d_b], row i the partner of D_a's row i
    *,
    ridge: float | None = None,
    seed: int = 0,
) -> DecoderScore:
    """Least squares between decoder rows in both directions, fitted on half of the pairs, scored on the rest.

    Rows are scaled to unit length. There is no bias, since they are directions.

    ridge  Ridge weight on the scatter sum of the rows; None: chosen on a quarter of the fitted half, then
           fitted again on the whole half.
    seed   Seed of the halves and of the bootstrap.

    Raises InvalidValue for fewer than 16 pairs, ValueError for other shapes, rows that are zero or not
    finite, or a ridge weight of 0 or less.
    """
    if D_a.ndim != 2 or D_b.ndim != 2 or len(D_a) != len(D_b):
        raise ValueError(
            "decoders must be [k, d_a] and [k, d_b] with one row per pair, got "
            f"{list(D_a.shape)} and {list(D_b.shape)}"
        )
    if len(D_a) < LEAST_PAIRS:
        raise InvalidValue(
            f"only {len(D_a)} pairs of features match, and at least {LEAST_PAIRS} are needed to fit and "
            "score a map: lower analysis.sae.least_correlation, or raise analysis.sae.features or "
            "analysis.sae.tokens"
        )
    if ridge is not None and not 0 < ridge < float("inf"):
        raise ValueError(f"ridge must be above 0 and finite, or None to choose it; got {ridge}")
    units = []
    for name, D in (("D_a", D_a), ("D_b", D_b)):
        lengths = D.detach().double().norm(dim=1, keepdim=True)
        if not (lengths.isfinite().all() and (lengths > 0).all()):
            raise ValueError(f"{name} has rows that are zero or not finite")
        units.append(D.detach().double() / lengths)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(D_a), generator=generator)
    half = len(D_a) // 2
    fitted, scored = order[:half], order[half:]
    draws = torch.randint(len(scored), (DRAWS, len(scored)), generator=generator)
    forward, backward = (
        _one_way(x[fitted], y[fitted], x[scored], y[scored], ridge, draws) for x, y in (units, units[::-1])
    )
    return DecoderScore(forward, backward, len(fitted), len(scored))


def random_like(sae: SparseAutoencoder, k: int, generator: torch.Generator) -> SparseAutoencoder:
    """An untrained autoencoder of the size of `sae`: Gaussian unit decoder rows, tied encoder, topk.

    It subtracts the decoder bias of `sae` from the input. Raises ValueError for a `k` outside the features.
    """
    rows = nn.functional.normalize(torch.randn(sae.features, sae.width, generator=generator), dim=1)
    return (
        SparseAutoencoder(
            rows.T.contiguous(),
            torch.zeros(sae.features),
            rows,
            sae.b_dec.detach().cpu(),
            "topk",
            k=k,
            apply_b_dec_to_input=True,
            layer=sae.layer,
        )
        .requires_grad_(False)
        .to(sae.device)
    )


@torch.no_grad()
def compare_decoders(
    a: SparseAutoencoder,
    b: SparseAutoencoder,
    rows: Iterable[tuple[Tensor, Tensor]],  # of [n, d_a] and [n, d_b], the same tokens
    *,
    least: float = 0.0,
    ridge: float | None = None,
    seed: int = 0,
) -> GeometryScore:
    """Compare the decoder geometry of two autoencoders with its nulls, in one pass over the rows.

    Needs two matrices of `8 m_a m_b` bytes on the device of `a`. The random decoders have as many active
    features as the true ones in the first batch.

    least  Pairs must have a correlation above it.
    ridge, seed  As in `decoder_map`.

    Raises InvalidValue for no rows or too few pairs of true features, ValueError for rows of other widths.
    """
    generator = torch.Generator().manual_seed(NULL_SEED + seed)
    true, random = (CoActivation(a.features, b.features, a.device) for _ in range(2))
    null: list[SparseAutoencoder] = []
    for x_a, x_b in rows:
        for name, sae, x in (("a", a, x_a), ("b", b, x_b)):
            if x.ndim != 2 or x.shape[1] != sae.width:
                raise ValueError(f"autoencoder {name} reads rows [n, {sae.width}], got {list(x.shape)}")
        f_a, f_b = a.encode(x_a), b.encode(x_b)
        if not null:
            for sae, f in ((a, f_a), (b, f_b)):
                active = round(float((f > 0).sum(1).double().mean()))
                null.append(random_like(sae, min(max(active, 1), sae.features), generator))
        true.update(f_a, f_b)
        random.update(null[0].encode(x_a), null[1].encode(x_b))
    matching = match_correlated(true.correlation(), least)
    matching_random = match_correlated(random.correlation(), least)
    D_a, D_b = a.W_dec.cpu()[matching.a], b.W_dec.cpu()[matching.b]
    matched = decoder_map(D_a, D_b, ridge=ridge, seed=seed)
    permuted = torch.randperm(len(matching), generator=generator)
    random_a, random_b = null[0].W_dec.cpu()[matching_random.a], null[1].W_dec.cpu()[matching_random.b]
    return GeometryScore(
        matched=matched,
        random=decoder_map(random_a, random_b, ridge=ridge, seed=seed)
        if len(matching_random) >= LEAST_PAIRS
        else None,
        shuffled=decoder_map(D_a, D_b[permuted], ridge=ridge, seed=seed),
        matching=matching,
        random_pairs=len(matching_random),
    )


def _one_way(
    x: Tensor,  # [k, d_x], fitted
    y: Tensor,  # [k, d_y]
    x_scored: Tensor,  # [n, d_x]
    y_scored: Tensor,  # [n, d_y]
    ridge: float | None,
    draws: Tensor,  # [draws, n]
) -> DirectionScore:
    weight = _chosen_ridge(x, y) if ridge is None else ridge
    fit = ridge_at(_moments(x, y), weight, bias=False)
    predicted = fit.directions(x_scored)
    errors = (predicted - y_scored).square().sum(1)
    spread = (y_scored - y_scored.mean(0)).square().sum(1)
    cosines = torch.cosine_similarity(predicted, y_scored, dim=1)
    # In chunks: all resamples at once are draws x features numbers.
    drawn = torch.split(draws, 100)
    fvus = torch.cat([errors[d].sum(1) / spread[d].sum(1) for d in drawn])
    means = torch.cat([cosines[d].mean(1) for d in drawn])
    fvu = _interval(float(errors.sum() / spread.sum()), fvus)
    return DirectionScore(
        r2=Interval(1 - fvu.value, 1 - fvu.high, 1 - fvu.low),
        fvu=fvu,
        cosine=_interval(float(cosines.mean()), means),
        ridge=weight,
    )


def _chosen_ridge(x: Tensor, y: Tensor) -> float:
    held_out = max(len(x) // 4, 2)
    chosen = ridge_path(
        _moments(x[held_out:], y[held_out:]), _moments(x[:held_out], y[:held_out]), bias=False
    )
    # The scatter is a sum over rows, so the same weight per row is larger on all rows.
    return chosen.weight * len(x) / (len(x) - held_out)


def _moments(x: Tensor, y: Tensor) -> Moments:
    moments = Moments(x.shape[1], y.shape[1], products="float64")
    moments.update(x, y)
    return moments


def _interval(value: float, draws: Tensor) -> Interval:
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(value, low, high)
