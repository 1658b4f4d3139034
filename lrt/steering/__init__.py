"""Steering vectors: extracted from one model, transferred to another, added to hidden states or ablated, and
read from and written for other software."""

from lrt.steering.ablation import Ablation, RowwiseAblation
from lrt.steering.addition import Addition, RowwiseAddition, steer
from lrt.steering.baking import Baked, CannotBake, bake
from lrt.steering.blending import Blend, blend, sampling_variance
from lrt.steering.formats import read_control_vector, read_vector, write_control_vector, write_vectors
from lrt.steering.residual_norm import median_residual_norm, median_residual_norms
from lrt.steering.stacking import stacked
from lrt.steering.stitched import Cost, Stitched, StitchedCost
from lrt.steering.transfer import Mapping, SourcePart
from lrt.steering.vectors import (
    SteeringVector,
    VectorUnreadable,
    contrast_states,
    difference_of_means,
    last_token_states,
    prompts_digest,
)

__all__ = [
    "Ablation",
    "Addition",
    "Baked",
    "Blend",
    "CannotBake",
    "Cost",
    "Mapping",
    "RowwiseAblation",
    "RowwiseAddition",
    "SourcePart",
    "SteeringVector",
    "Stitched",
    "StitchedCost",
    "VectorUnreadable",
    "bake",
    "blend",
    "contrast_states",
    "difference_of_means",
    "last_token_states",
    "median_residual_norm",
    "median_residual_norms",
    "prompts_digest",
    "read_control_vector",
    "read_vector",
    "sampling_variance",
    "stacked",
    "steer",
    "write_control_vector",
    "write_vectors",
]
