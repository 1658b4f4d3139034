"""Devices: their names, and what memory they have free."""

from __future__ import annotations

import torch

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
