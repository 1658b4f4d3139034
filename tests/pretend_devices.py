"""Pretend GPUs on a build of torch without CUDA: tensors in the CPU's memory, each with a device's tag.

Mixing tensors of two devices raises RuntimeError where CUDA would. So code that forgets to move a tensor
fails here, and code that moves all of them gives the same numbers as on the CPU.

Nothing in torch does this: `FakeTensorMode` has devices but no numbers, and a backend under `PrivateUse1`
needs a kernel for each operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
COPIES = {"aten::_to_copy", "aten::copy_", "aten::copy", "aten::set_"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Their indices may lie on the CPU whatever the device of the indexed tensor."""


def device_of(tensor: Tensor) -> torch.device:
    """The pretend device of a tensor; the CPU where it has none."""
    with torch._C.DisableTorchFunction():
        if tensor.device != CPU:  # meta
            return tensor.device
        # a storage has one Python object as long as it lives, whichever tensors and views look at it
        return getattr(tensor.untyped_storage(), "pretend_device", CPU)


@contextmanager
def pretend_cuda(devices: int = 1) -> Iterator[Counter[str]]:
    """Make torch, transformers, accelerate and Lightning see so many GPUs.

    Yields how many tensors were copied `to cuda` and `to cpu`.
    """
    copies: Counter[str] = Counter()
    current, memory = [0], (64 << 30, 80 << 30)
    queries: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: current[-1],
        "set_device": lambda device: current.append(_normal(device).index),
        "get_device_name": lambda *_: "pretend",
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *_: memory,
        "get_rng_state_all": lambda: [],
        "get_rng_state": lambda *_: torch.empty(0),
        "memory_stats": lambda *_: {},
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": nullcontext,
    }
    nothing = (
        "_lazy_init",
        "empty_cache",
        "synchronize",
        "manual_seed",
        "manual_seed_all",
        "set_rng_state_all",
        "set_rng_state",
        "_exchange_device",
        "_maybe_exchange_device",
    )
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        queries[name] = lambda *_: 0
    with ExitStack() as undo:
        changes = {**queries, **{name: lambda *_, **__: None for name in nothing}}
        undo.enter_context(mock.patch.multiple(torch.cuda, **changes))
        undo.enter_context(mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", bool))
        undo.enter_context(mock.patch.object(torch._C, "_cuda_clearCublasWorkspaces", create=True))
        # not among `ANSWERS`: threads that read ahead have no function mode
        undo.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, *_: tensor))
        undo.enter_context(mock.patch.object(Tensor, "record_stream", return_value=None))
        undo.enter_context(_Operations(copies))
        undo.enter_context(_Methods())
        yield copies


class _Stream:
    """A stream on which all work is done at once."""

    def __init__(self, device: Any = None) -> None:
        del device

    def wait_stream(self, stream: _Stream) -> None:
        del stream

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None:
        pass


class _Operations(TorchDispatchMode):
    """Runs every operation on the CPU, checks its tensors' devices and tags its results."""

    def __init__(self, copies: Counter[str]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if _is_composite(func):  # in inference mode such operations arrive whole
            with self:
                return func.decompose(*args, **kwargs)
        name: str = func._schema.name
        kwargs.pop("pin_memory", None)
        device = _normal(kwargs.get("device"))
        if device is not None and device.type == "cuda":
            kwargs["device"] = CPU
        # in order: an operation writes to its first tensor
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = [device_of(tensor) for tensor in tensors]
        if name in COPIES:
            device = device or places[0]
            if name != "aten::set_" and places[-1] != device:
                self.copies[f"to {device.type}"] += 1
        else:
            common = _common(name, tensors, places)
            device = device or common
        owned = {tensor.untyped_storage()._cdata for tensor in tensors}
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in owned:
                _place(leaf, device)
        return result


@cache
def _is_composite(func: Any) -> bool:
    return bool(func._can_decompose())


class _Methods(TorchFunctionMode):
    """Answers for what never becomes an operation: a tensor's device, and moves that look like none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else _to(Tensor.to, device_of(made), made, device)
        if func is torch.device and isinstance(args[0], int):
            return torch.device("cuda", args[0])
        answer = ANSWERS.get(func)
        if answer is None or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        return answer(func, device_of(args[0]), *args, **kwargs)


def _to(func: Any, here: torch.device, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, `.cpu` and `.cuda`: the CPU's memory has both ends, so torch would see no move."""
    if func is Tensor.cpu:
        args = (CPU, *args)
    elif func is Tensor.cuda:
        args = args or (torch.device("cuda"),)
    dtype, there = kwargs.pop("dtype", None), kwargs.pop("device", None)
    for each in (*args, kwargs.pop("other", None)):
        if isinstance(each, Tensor):
            there, dtype = device_of(each), each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, str | torch.device | int) and not isinstance(each, bool):
            there = each
    place, dtype = _normal(there) or here, dtype or tensor.dtype
    if place == here and dtype == tensor.dtype and not kwargs.get("copy"):
        return tensor
    return torch.ops.aten._to_copy.default(tensor, dtype=dtype, device=place)


def _deepcopy(func: Any, here: torch.device, tensor: Tensor, *args: Any) -> Tensor:
    copy = func(tensor, *args)
    _place(tensor, here)  # copying a storage gives its original another Python object
    return _place(copy, here)


def _numpy(func: Any, here: torch.device, *args: Any, **kwargs: Any) -> Any:
    if here.type == "cuda":
        raise TypeError(f"can't convert {here} device type tensor to numpy")
    return func(*args, **kwargs)


ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: lambda _, here, *__: here,
    Tensor.is_cuda.__get__: lambda _, here, *__: here.type == "cuda",
    Tensor.is_cpu.__get__: lambda _, here, *__: here.type == "cpu",
    Tensor.get_device: lambda _, here, *__: -1 if here.index is None else here.index,
    Tensor.__deepcopy__: _deepcopy,
    **dict.fromkeys((Tensor.to, Tensor.cpu, Tensor.cuda), _to),
    **dict.fromkeys((Tensor.numpy, Tensor.__array__), _numpy),
}


def _normal(device: Any) -> torch.device | None:
    if device is None:
        return None
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type != "cuda":
        return torch.device(device.type)
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _place(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "meta" and tensor.device.type != "meta":
        with torch._C.DisableTorchFunction():
            tensor.untyped_storage().pretend_device = device  # type: ignore[attr-defined]
    return tensor


def _common(name: str, tensors: list[Tensor], places: list[torch.device]) -> torch.device:
    """The device of an operation's result. Raises RuntimeError where CUDA would.

    Numbers without a dimension may come from the CPU, and so may indices.
    """
    if not places:
        return CPU
    free = [place == CPU and tensor.ndim == 0 for tensor, place in zip(tensors, places, strict=True)]
    if name in INDEXING:
        free = [
            is_free or (index > 0 and place == CPU and not tensor.dtype.is_floating_point)
            for index, (is_free, tensor, place) in enumerate(zip(free, tensors, places, strict=True))
        ]
    bound = {place for place, is_free in zip(places, free, strict=True) if not is_free} or {CPU}
    written = name.endswith("_") and places[0] not in bound  # the result does not fit where it belongs
    if len(bound) > 1 or written:
        shapes = [f"{list(tensor.shape)} on {place}" for tensor, place in zip(tensors, places, strict=True)]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices: "
            f"{name} of {', '.join(shapes)}"
        )
    return bound.pop()
