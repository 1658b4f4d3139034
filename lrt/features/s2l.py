"""From source features to target states: s2l, beside l2l (paper section 3.2).

s2l fits target hidden states on the activations of a *source* autoencoder's features, so that feature
coefficients alone give a steering direction on the target. l2l takes the same coefficients to a
source direction through the decoder, and maps that as any hidden state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lrt.features.autoencoder import SparseAutoencoder
from lrt.mapping import AffineMap, Moments, RidgeFit, ridge_path
from lrt.mapping.moments import Products


@torch.no_grad()
def feature_moments(
    sae: SparseAutoencoder,
    batches: Iterable[Mapping[str, Tensor]],  # of "source" [n, d_source] and "target" [n, d_target]
    *,
    products: Products = "float32",
) -> Moments:
    """Moments of the source's feature activations `[n, m]` with target states `[n, d_target]`.

    Keeps `8 m (m + d_target)` bytes and more; 16,384 features are 2 GB. Raises ValueError for source
    rows of another width, non-finite rows, or no rows.
    """
    moments: Moments | None = None
    for batch in batches:
        source, target = batch["source"], batch["target"]
        if source.ndim != 2 or source.shape[1] != sae.width:
            raise ValueError(f"the autoencoder reads rows [n, {sae.width}], got {list(source.shape)}")
        if moments is None:
            moments = Moments(sae.features, target.shape[-1], products=products)
        moments.update(sae.encode(source), target)
    if moments is None:
        raise ValueError(
            "s2l is fitted on at least one batch of rows, got none: the corpus or split is empty"
        )
    return moments


def fit_s2l(
    train: Moments,  # of features [n, m] with target states [n, d_target]
    validation: Moments,
    weights: Sequence[float] | Tensor | None = None,
) -> RidgeFit:
    """The ridge map from feature activations to target states, its weight chosen on the validation rows.

    Its map is `[d_target, m]`. There may be more features than rows, and features that are never on
    have no image. One eigendecomposition of `[m, m]`. Raises ValueError as `ridge_path` does, and
    for a ridge weight of zero, at which features that are on together have no unique image.
    """
    if weights is not None and not (torch.as_tensor(weights) > 0).all():
        raise ValueError(
            f"ridge weights of s2l must be above 0, got {torch.as_tensor(weights).tolist()}: features that "
            "are always on together have no unique image without one"
        )
    return ridge_path(train, validation, weights)


class EncodedRows(LightningDataModule):
    """Rows of another data module, with source states replaced by an autoencoder's feature activations.

    A batch is encoded after its transfer to the training device: features are many times as wide as states.
    That uses a copy of the autoencoder, so the caller's one stays on its own device.
    """

    def __init__(self, rows: LightningDataModule, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.rows, self._encoder = rows, copy.deepcopy(sae)

    def train_dataloader(self) -> Any:
        """The training loader of the rows."""
        return self.rows.train_dataloader()

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """`source` `[n, d_source]` becomes `[n, m]`."""
        source = batch["source"]
        self._encoder = self._encoder.to(source.device)
        return {**batch, "source": self._encoder.encode(source)}


def feature_direction(
    s2l: AffineMap,  # [d_target, m]
    coefficients: Tensor,  # [..., m]
) -> Tensor:  # [..., d_target]
    """The target direction of source-feature coefficients, by s2l.

    The map's value at the coefficients less its value at none: without the bias, which is where the
    target's mean state sits. Raises ValueError for another number of features.
    """
    if coefficients.shape[-1] != s2l.d_source:
        raise ValueError(f"s2l maps {s2l.d_source} features, got coefficients {list(coefficients.shape)}")
    return s2l.directions(coefficients)


def decoded_direction(
    l2l: AffineMap,  # [d_target, d_source]
    sae: SparseAutoencoder,
    coefficients: Tensor,  # [..., m]
) -> Tensor:  # [..., d_target]
    """The target direction of the same coefficients by l2l: `W` of their decoder-side vector.

    Raises ValueError for another width or number of features.
    """
    if coefficients.shape[-1] != sae.features or l2l.d_source != sae.width:
        raise ValueError(
            f"the autoencoder has {sae.features} features of width {sae.width}; got coefficients "
            f"{list(coefficients.shape)} and a map from width {l2l.d_source}"
        )
    return l2l.directions(sae.decode_direction(coefficients))


@dataclass(frozen=True, eq=False)
class BehaviourFeatures:
    """The features that tell a behaviour's states from their contrast, and by how much.

    `features` `[top]` are the chosen ones, most telling first; `coefficients` `[m]` is their
    difference of mean activations, zero elsewhere: the vector that s2l and l2l carry. `cosine` is that
    of its decoder-side vector with the difference of mean states, the share of it that the features
    hold.
    """

    features: Tensor  # [top], int64
    coefficients: Tensor  # [m], float32
    cosine: float


@torch.no_grad()
def behaviour_features(
    sae: SparseAutoencoder,
    positives: Tensor,  # [n, d]
    negatives: Tensor,  # [n', d]
    top: int | None = None,
) -> BehaviourFeatures:
    """The `top` features whose mean activation differs most between contrastive states; all by default.

    Differences, of either sign, are compared as lengths in the residual stream: times the feature's
    decoder norm, which published autoencoders do not all keep at 1. Raises ValueError for states of
    another width, none, non-finite ones, a `top` outside the features, or states that no feature
    tells apart.
    """
    for name, states in (("positives", positives), ("negatives", negatives)):
        if states.ndim != 2 or states.shape[1] != sae.width or len(states) == 0:
            raise ValueError(
                f"{name} must be states [n, {sae.width}], n at least 1; got {list(states.shape)}"
            )
        if not states.isfinite().all():
            raise ValueError(
                f"{name} has non-finite states: leave them out, or run the model in a wider dtype"
            )
    if top is not None and not 1 <= top <= sae.features:
        raise ValueError(f"top must lie in 1..{sae.features}, the number of features; got {top}")
    on = [sae.encode(states).double().mean(0) for states in (positives, negatives)]
    difference = on[0] - on[1]
    lengths = difference.abs() * sae.W_dec.double().norm(dim=1)
    telling = int((lengths > 0).sum())
    if telling == 0:
        raise ValueError(
            "no feature's mean activation differs between positives and negatives: the contrastive states "
            "are the same, or the autoencoder is of another layer or model"
        )
    chosen = lengths.argsort(descending=True, stable=True)[: telling if top is None else min(top, telling)]
    coefficients = torch.zeros_like(difference)
    coefficients[chosen] = difference[chosen]
    carried = sae.decode_direction(coefficients.float()).double()
    whole = positives.double().mean(0) - negatives.double().mean(0)
    return BehaviourFeatures(
        features=chosen,
        coefficients=coefficients.float(),
        cosine=float(torch.cosine_similarity(carried, whole, dim=0)),
    )
