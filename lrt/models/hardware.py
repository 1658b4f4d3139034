"""Devices: their names, what memory they have free, and where sums in float64 can lie."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


def device_name(device: torch.device) -> str:
    """A device for people; of a CPU its vector instructions and threads, which decide the order of sums."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return device.type


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU that no process uses, and those that torch holds without using them; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU where it has no float64 (Apple's MPS)."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except TypeError:
        log.info("%s has no float64: moments are summed and solved on the CPU", device)
        return CPU
    return device


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
    return CPU
