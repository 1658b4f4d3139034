"""Affine maps from one model's hidden states to another's, and how they are fitted.

This folder knows only tensors. From paired rows `x` `[n, d_source]` and `y` `[n, d_target]` it makes an
`AffineMap`.

- `Moments` accumulates everything that a least-squares fit needs from a stream of rows.
- `ridge_path` solves for the ridge map that every other fit is compared with. Solves run on the device of
  the moments, and what they return lies on the CPU.
- `MapModule` fits a map by gradient steps, on inputs whitened by the moments.

A point maps by `W x + b`, a direction by `W v` (paper section 2.1): the bias cancels in a difference of
means.
"""

from lrt.mapping.affine import AffineMap
from lrt.mapping.artifact import (
    MapCorrupt,
    MapError,
    MapForeign,
    MapMissing,
    PairMaps,
    load_map,
    load_maps,
    save_map,
    save_pair_maps,
)
from lrt.mapping.atlas import AtlasCell, atlas, choose_layers
from lrt.mapping.baselines import from_embeddings, identity, mean_only
from lrt.mapping.closed_form import ClosedFormFit, NotConverged, closed_form
from lrt.mapping.directional import DirectionalRidge, directions_along, ridge_per_direction
from lrt.mapping.factored import FactoredMap
from lrt.mapping.fit_spec import ClosedFormSpec, FitSpec
from lrt.mapping.forecast import (
    Agreement,
    Forecast,
    agreement,
    directions_of_halves,
    independent_error,
    jackknife,
    residual_on,
    residual_warning,
)
from lrt.mapping.gcv import gcv_curve
from lrt.mapping.grid_fit import PairFit, fit_grid, pair_of
from lrt.mapping.grid_moments import GridMoments, atlas_bytes
from lrt.mapping.grouped_moments import GroupedMoments
from lrt.mapping.history import FitHistory
from lrt.mapping.layer_concat import LayerConcat, layer_concat_bytes, of_layers
from lrt.mapping.many_to_one import (
    ManyToMany,
    ManyToOne,
    many_to_many,
    many_to_one,
    solving_bytes,
)
from lrt.mapping.metrics import ErrorAlong, FractionUnexplained, MeanCosine
from lrt.mapping.module import FitDiverged, MapModule, early_stopping
from lrt.mapping.moments import Moments, merge_all
from lrt.mapping.null_fvu import shuffled_fvu
from lrt.mapping.parametrisations import MapSpec, orthogonality_penalty
from lrt.mapping.procrustes import Procrustes, procrustes
from lrt.mapping.rank_curve import RankCurve, rank_curve
from lrt.mapping.reduced_rank import ReducedRank, reduced_rank_path
from lrt.mapping.ridge import RidgeFit, SharedRidge, ridge_at, ridge_directions, ridge_path
from lrt.mapping.scores import cosine, excess, rest_beside
from lrt.mapping.shuffled_pairs import ShuffledPairs
from lrt.mapping.whitening import Whitening

__all__ = [
    "AffineMap",
    "Agreement",
    "AtlasCell",
    "ClosedFormFit",
    "ClosedFormSpec",
    "DirectionalRidge",
    "ErrorAlong",
    "FactoredMap",
    "FitDiverged",
    "FitHistory",
    "FitSpec",
    "Forecast",
    "FractionUnexplained",
    "GridMoments",
    "GroupedMoments",
    "LayerConcat",
    "ManyToMany",
    "ManyToOne",
    "MapCorrupt",
    "MapError",
    "MapForeign",
    "MapMissing",
    "MapModule",
    "MapSpec",
    "MeanCosine",
    "Moments",
    "NotConverged",
    "PairFit",
    "PairMaps",
    "Procrustes",
    "RankCurve",
    "ReducedRank",
    "RidgeFit",
    "SharedRidge",
    "ShuffledPairs",
    "Whitening",
    "agreement",
    "atlas",
    "atlas_bytes",
    "choose_layers",
    "closed_form",
    "cosine",
    "directions_along",
    "directions_of_halves",
    "early_stopping",
    "excess",
    "fit_grid",
    "from_embeddings",
    "gcv_curve",
    "identity",
    "independent_error",
    "jackknife",
    "layer_concat_bytes",
    "load_map",
    "load_maps",
    "many_to_many",
    "many_to_one",
    "mean_only",
    "merge_all",
    "of_layers",
    "orthogonality_penalty",
    "pair_of",
    "procrustes",
    "rank_curve",
    "reduced_rank_path",
    "residual_on",
    "residual_warning",
    "rest_beside",
    "ridge_at",
    "ridge_directions",
    "ridge_path",
    "ridge_per_direction",
    "save_map",
    "save_pair_maps",
    "shuffled_fvu",
    "solving_bytes",
]
