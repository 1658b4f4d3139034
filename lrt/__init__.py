"""Transfer steering vectors between language models.

    import lrt

    small, large = lrt.load("path/or/hub-id"), lrt.load("path/or/hub-id")
    mapping = lrt.fit_map(small, large, texts, layers=(0.5, 0.5))
    vector = lrt.extract_vector(small, positives, negatives, layer=0.5)
    result = mapping.transfer(vector)
    with lrt.steer(large, result.vector, strength=0.4):
        print(large.generate("Once upon a time"))

These names are those of `lrt.api`, imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrt.api import (
        FittedMap,
        InvalidValue,
        LanguageModel,
        MapGrid,
        SteeringVector,
        Transferred,
        UserError,
        VectorForecast,
        bake,
        blend,
        extract_vector,
        fit_map,
        load,
        load_map,
        pull,
        push,
        read_vector,
        steer,
        write_vectors,
    )

__all__ = [
    "FittedMap",
    "InvalidValue",
    "LanguageModel",
    "MapGrid",
    "SteeringVector",
    "Transferred",
    "UserError",
    "VectorForecast",
    "bake",
    "blend",
    "extract_vector",
    "fit_map",
    "load",
    "load_map",
    "pull",
    "push",
    "read_vector",
    "steer",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lrt' has no attribute {name!r}")
    return getattr(import_module("lrt.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
