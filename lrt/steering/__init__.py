"""Steering vectors: found on one model, carried across a map, added to another's states or taken out, and
written for other software."""

from lrt.steering.ablation import Ablation, RowwiseAblation
from lrt.steering.addition import Addition, RowwiseAddition
from lrt.steering.control_vectors import read_control_vector, write_control_vector
from lrt.steering.stitched import Cost, Stitched, StitchedCost
from lrt.steering.transfer import transfer
from lrt.steering.vectors import (
    SteeringVector,
    VectorUnreadable,
    difference_of_means,
    last_token_states,
    prompts_digest,
)

__all__ = [
    "Ablation",
    "Addition",
    "Cost",
    "RowwiseAblation",
    "RowwiseAddition",
    "SteeringVector",
    "Stitched",
    "StitchedCost",
    "VectorUnreadable",
    "difference_of_means",
    "last_token_states",
    "prompts_digest",
    "read_control_vector",
    "transfer",
    "write_control_vector",
]
