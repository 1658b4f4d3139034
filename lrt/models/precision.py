"""The number format that a model runs in where `dtype` is `auto`.

The choice follows from the checkpoint and from what the device can do, never from how busy the machine is,
because the dtype is part of the model's fingerprint.

| device | capability | a bfloat16 checkpoint runs in |
|---|---|---|
| CPU | AMX-BF16, AVX512-BF16 or Arm BF16 instructions, hidden size at least 512 | bfloat16 |
| CPU | none of these, or a narrower model | float32 |
| CUDA, ROCm | native bfloat16 (compute capability 8.0, any ROCm device) | bfloat16 |
| CUDA | emulated bfloat16 | float32 |
| other | any | bfloat16 |

A checkpoint of another dtype keeps it on a GPU and runs in float32 on a CPU: float32 weights are never
narrowed, and float16 is emulated there.
"""

import torch

# Products of narrower models are too small to gain from bfloat16.
NARROWEST_FOR_BFLOAT16 = 512
# Names in `torch.cpu.get_capabilities()`; the last two are Arm's.
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
# For a torch without `get_capabilities`.
OLDER_QUERIES = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


def resolve_dtype(requested: str, checkpoint: torch.dtype, device: torch.device, width: int) -> torch.dtype:
    """The dtype to run a model in.

    requested   A name of `DtypeName`; anything but `auto` is taken literally.
    checkpoint  The dtype of the stored weights.
    width       Hidden size.
    """
    if requested != "auto":
        dtype = getattr(torch, requested)
        assert isinstance(dtype, torch.dtype)
        return dtype
    if checkpoint == torch.bfloat16:
        return torch.bfloat16 if bfloat16_is_fast(device, width) else torch.float32
    return torch.float32 if device.type == "cpu" else checkpoint


def bfloat16_is_fast(device: torch.device, width: int) -> bool:
    """Whether `auto` keeps a bfloat16 model of this hidden size in bfloat16 on `device` (table above)."""
    match device.type:
        case "cpu":
            return width >= NARROWEST_FOR_BFLOAT16 and cpu_multiplies_bfloat16()
        case "cuda":
            return gpu_multiplies_bfloat16(device)
        case _:
            return True


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products, and torch has oneDNN, which uses them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS)
    return any(getattr(torch.cpu, query)() for query in OLDER_QUERIES if hasattr(torch.cpu, query))


def gpu_multiplies_bfloat16(device: torch.device) -> bool:
    """Whether this GPU has native bfloat16."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
