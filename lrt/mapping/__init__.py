"""Affine maps from one model's hidden states to another's, and how they are fitted.

The folder knows only tensors: paired rows `x` `[n, d_source]` and `y` `[n, d_target]` come in,
an `AffineMap` goes out. `Moments` streams everything a least-squares fit needs, `ridge_path` turns
it into the optimum that every fit is measured against, and `MapModule` is the gradient road to the
same place, on inputs whitened by those moments. A point maps by `W x + b`, a direction by `W v`
(paper section 2.1; for a difference of means the bias cancels).
"""

from lrt.mapping.affine import AffineMap
from lrt.mapping.artifact import (
    MapCorrupt,
    MapError,
    MapForeign,
    MapMissing,
    load_map,
    save_map,
)
from lrt.mapping.fit_spec import FitSpec
from lrt.mapping.history import FitHistory
from lrt.mapping.metrics import R2, ErrorAlong, FractionUnexplained, MeanCosine
from lrt.mapping.module import MapModule, early_stopping
from lrt.mapping.moments import Moments
from lrt.mapping.parametrisations import MapSpec, orthogonality_penalty
from lrt.mapping.ridge import RidgeFit, ridge_at, ridge_path
from lrt.mapping.stacking import Stack
from lrt.mapping.whitening import Whitening

__all__ = [
    "R2",
    "AffineMap",
    "ErrorAlong",
    "FitHistory",
    "FitSpec",
    "FractionUnexplained",
    "MapCorrupt",
    "MapError",
    "MapForeign",
    "MapMissing",
    "MapModule",
    "MapSpec",
    "MeanCosine",
    "Moments",
    "RidgeFit",
    "Stack",
    "Whitening",
    "early_stopping",
    "load_map",
    "orthogonality_penalty",
    "ridge_at",
    "ridge_path",
    "save_map",
]
