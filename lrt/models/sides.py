"""The two models of a pair, and the point of a decoder block at which their states are read."""

from typing import Literal

Side = Literal["source", "target"]
SIDES: tuple[Side, ...] = ("source", "target")

STAYS = -2
"""In place of a token id, where several models read a text in steps: the model reads no further token."""

# where states are recorded and vectors are added
HOOK_POINT = "block output, residual stream, before the final norm"
