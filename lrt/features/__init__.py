"""Sparse autoencoders (SAEs) of hidden states: loaded or trained, compared, and used to steer.

- `load_published` reads Gemma Scope and SAELens files; `SaeModule` trains on recorded states.
- `compare_decoders` measures whether two models' decoder directions are linearly related (paper section 2.2).
- `fit_s2l` maps source-feature activations to target states (section 3.2).
"""

from lrt.features.autoencoder import (
    Kind,
    SaeCorrupt,
    SaeError,
    SaeForeign,
    SaeMissing,
    SparseAutoencoder,
    load_autoencoder,
    save_autoencoder,
)
from lrt.features.geometry import (
    DecoderScore,
    DirectionScore,
    GeometryScore,
    Interval,
    compare_decoders,
    decoder_map,
    random_like,
)
from lrt.features.matching import CoActivation, Matching, match_correlated, match_features
from lrt.features.metrics import DeadShare, MeanActive, SaeScore, score_autoencoder
from lrt.features.published import check_fits, load_gemma_scope, load_published, load_saelens
from lrt.features.s2l import (
    BehaviourFeatures,
    EncodedRows,
    behaviour_features,
    decoded_direction,
    feature_direction,
    feature_moments,
    fit_s2l,
)
from lrt.features.training import SaeModule, SaeSpec

__all__ = [
    "BehaviourFeatures",
    "CoActivation",
    "DeadShare",
    "DecoderScore",
    "DirectionScore",
    "EncodedRows",
    "GeometryScore",
    "Interval",
    "Kind",
    "Matching",
    "MeanActive",
    "SaeCorrupt",
    "SaeError",
    "SaeForeign",
    "SaeMissing",
    "SaeModule",
    "SaeScore",
    "SaeSpec",
    "SparseAutoencoder",
    "behaviour_features",
    "check_fits",
    "compare_decoders",
    "decoded_direction",
    "decoder_map",
    "feature_direction",
    "feature_moments",
    "fit_s2l",
    "load_autoencoder",
    "load_gemma_scope",
    "load_published",
    "load_saelens",
    "match_correlated",
    "match_features",
    "random_like",
    "save_autoencoder",
    "score_autoencoder",
]
