"""What decides the last bits of a model's numbers beside its weights and dtype."""

from __future__ import annotations

import torch


def device_name(device: torch.device) -> str:
    """A device for people; of a CPU its vector instructions and threads, which decide the order of sums."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return device.type
