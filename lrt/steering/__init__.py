"""Steering vectors: found on one model, carried across a map, added to another's hidden states."""

from lrt.steering.addition import Addition, RowwiseAddition
from lrt.steering.transfer import transfer
from lrt.steering.vectors import (
    SteeringVector,
    VectorUnreadable,
    difference_of_means,
    last_token_states,
    prompts_digest,
)

__all__ = [
    "Addition",
    "RowwiseAddition",
    "SteeringVector",
    "VectorUnreadable",
    "difference_of_means",
    "last_token_states",
    "prompts_digest",
    "transfer",
]
