"""Maps from source features to target states (s2l), compared with maps of hidden states (l2l).

s2l fits target hidden states on the feature activations of a *source* autoencoder, so that feature
coefficients give a steering direction on the target (paper section 3.2). l2l decodes the same coefficients to
a source direction and maps that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lrt.errors import InvalidValue
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

    Needs more than `8 m (m + d_target)` bytes on the autoencoder's device, where everything is computed: 2 GB
    for 16,384 features. Raises InvalidValue for no rows or rows that are not finite, ValueError for source
    rows of another width.
    """
    moments: Moments | None = None
    for batch in batches:
        source, target = batch["source"], batch["target"]
        if source.ndim != 2 or source.shape[1] != sae.width:
            raise ValueError(f"the autoencoder reads rows [n, {sae.width}], got {list(source.shape)}")
        if moments is None:
            moments = Moments(sae.features, target.shape[-1], products=products, device=sae.device)
        moments.update(sae.encode(source), target.to(sae.device))
    if moments is None:
        raise InvalidValue("there are no rows to fit s2l on: the corpus or split is empty")
    return moments


def fit_s2l(
    train: Moments,  # of features [n, m] with target states [n, d_target]
    validation: Moments,
    weights: Sequence[float] | Tensor | None = None,
) -> RidgeFit:
    """The ridge map from feature activations to target states, its weight chosen on the validation rows.

    Its weight matrix is `[d_target, m]`. There can be more features than rows; features that are never active
    map to zero. The cost is one eigendecomposition of `[m, m]`. Raises as `ridge_path`, and ValueError for a
    ridge weight of zero, at which the map of features that are always active together is not unique.
    """
    if weights is not None and not (torch.as_tensor(weights) > 0).all():
        raise ValueError(f"ridge weights of s2l must be above 0, got {torch.as_tensor(weights).tolist()}")
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

    It is the map's difference between these coefficients and zero, so without the bias. Raises ValueError for
    another number of features.
    """
    if coefficients.shape[-1] != s2l.d_source:
        raise ValueError(f"s2l maps {s2l.d_source} features, got coefficients {list(coefficients.shape)}")
    return s2l.directions(coefficients)


def decoded_direction(
    l2l: AffineMap,  # [d_target, d_source]
    sae: SparseAutoencoder,
    coefficients: Tensor,  # [..., m]
) -> Tensor:  # [..., d_target]
    """The target direction of source-feature coefficients, by l2l: `W` of the decoded direction.

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
    """The features whose activations differ most between a behaviour's contrastive states.

    features      The chosen ones, largest difference first; on the autoencoder's device, as the coefficients.
    coefficients  Difference of mean activations of these features, zero elsewhere: what s2l and l2l transfer.
    cosine        Cosine of the decoded coefficients with the difference of mean states.
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
    """The `top` features whose mean activation differs most between contrastive states; by default all.

    Differences of either sign are compared as lengths in the residual stream: times the feature's decoder
    norm, which is not 1 in every published autoencoder. Raises InvalidValue for states that are not finite, a
    `top` outside the features, and states in which no feature differs; ValueError for other shapes.
    """
    positives, negatives = positives.to(sae.device), negatives.to(sae.device)
    for name, states in (("positives", positives), ("negatives", negatives)):
        if states.ndim != 2 or states.shape[1] != sae.width or len(states) == 0:
            raise ValueError(
                f"{name} must be states [n, {sae.width}], n at least 1; got {list(states.shape)}"
            )
        if not states.isfinite().all():
            raise InvalidValue(
                f"{name} has states that are not finite: run the model in a wider dtype (pair.source.dtype)"
            )
    if top is not None and not 1 <= top <= sae.features:
        raise InvalidValue(f"top must lie in 1..{sae.features}, the number of features; got {top}")
    positive, negative = (sae.encode(states).double().mean(0) for states in (positives, negatives))
    difference = positive - negative
    lengths = difference.abs() * sae.W_dec.double().norm(dim=1)
    differing = int((lengths > 0).sum())
    if differing == 0:
        raise InvalidValue(
            "no feature's mean activation differs between positives and negatives: the contrastive states "
            "are the same, or the autoencoder is of another layer or model"
        )
    chosen = lengths.argsort(descending=True, stable=True)[
        : differing if top is None else min(top, differing)
    ]
    coefficients = torch.zeros_like(difference)
    coefficients[chosen] = difference[chosen]
    decoded = sae.decode_direction(coefficients.float()).double()
    whole = positives.double().mean(0) - negatives.double().mean(0)
    return BehaviourFeatures(
        features=chosen,
        coefficients=coefficients.float(),
        cosine=float(torch.cosine_similarity(decoded, whole, dim=0)),
    )
