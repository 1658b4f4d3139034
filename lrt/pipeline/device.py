"""Where moments are summed and solved: on the device of the models, or in the CPU's memory."""

from __future__ import annotations

import logging

import torch

from lrt.models.hardware import free_bytes

log = logging.getLogger(__name__)


def with_room(device: torch.device, needed: int, what: str) -> torch.device:
    """The device, or the CPU where `needed` bytes are more than 90% of those free.

    what  What they are needed for, for the log.
    """
    free = free_bytes(device)
    if free is None or needed <= 0.9 * free:
        return device
    log.info(
        "%s: needs %.3g GB and %s has %.3g GB free, so this stays in the CPU's memory",
        what,
        needed / 1e9,
        device,
        free / 1e9,
    )
    return torch.device("cpu")
