"""Several source models as the one source of a pair: their states side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrt.config import ConfigError, Layers
from lrt.evaluation.neutral_texts import PARAGRAPHS
from lrt.mapping import LayerConcat
from lrt.models import LanguageModel, ModelSpec, identity, load
from lrt.models.stacked import StackedModel, check_names, stack_name, tokenizer_kinds
from lrt.pipeline.pair_model import PairModel
from lrt.steering import SourcePart, stacked
from lrt.storage.fingerprint import fingerprint

VERSION = 1
"""Of how states of several models stand in one row: their order, and the unit of each."""


@dataclass(frozen=True)
class StackSpec:
    """Several models as plain data, as `ModelSpec` is of one.

    blocks  Of each, the blocks whose states stand in a row.
    """

    specs: tuple[ModelSpec, ...]
    blocks: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """For people."""
        return stack_name([spec.name for spec in self.specs])

    def untrained(self, seed: int) -> StackSpec:
        """The same architectures with random weights, each of a seed of its own."""
        random = (
            replace(spec, weights="random", seed=seed + 1000 * number, name="")
            for number, spec in enumerate(self.specs)
        )
        return replace(self, specs=tuple(random))

    def identity(self, cache: Path) -> dict[str, Any]:
        """What determines the states in a row."""
        parts = zip(self.specs, self.blocks, strict=True)
        models = [{**identity(spec, cache), "layers": list(layers)} for spec, layers in parts]
        units = {"version": VERSION, "texts": fingerprint({"neutral": list(PARAGRAPHS)})}
        return {"side by side": models, "dtype": "float32", "units": units}

    def load(self, cache: Path) -> StackedModel:
        """All models, loaded, each in units of its own size. Raises ModelNotLoadable."""
        return stacked([load(spec, cache) for spec in self.specs], self.blocks, PARAGRAPHS)


class StackedPairModel(PairModel[StackedModel]):
    """Several models as the source of a pair: one layer, 0, of the states of all of them side by side."""

    def __init__(self, parts: tuple[PairModel[LanguageModel], ...], layers: Layers) -> None:
        names = [part.spec.name for part in parts]
        check_names(names)
        self.parts = parts
        blocks = []
        for number, (part, named) in enumerate(zip(parts, layers.of_several(names), strict=True)):
            own = [part.resolve_layer(layer, f"layers.source[{number}]") for layer in named]
            if not own or len(set(own)) < len(own):
                raise ConfigError(
                    f"layers.source[{number}]={list(named)}: name at least one block of {part.spec.name}, "
                    "and each once"
                )
            blocks.append(tuple(sorted(own)))
        specs = tuple(part.spec for part in parts)
        self.spec_of_all = StackSpec(specs, tuple(blocks))
        width = sum(len(own) * part.width for own, part in zip(blocks, parts, strict=True))
        name = self.spec_of_all.name
        kinds, _ = tokenizer_kinds([part.tokenizer for part in parts])
        super().__init__(ModelSpec(path=name, name=name), kinds, 1, width, self._stacked)

    def _stacked(self) -> StackedModel:
        models = [part.loaded for part in self.parts]
        return stacked(models, self.spec_of_all.blocks, PARAGRAPHS)

    def places(self, layers: Sequence[int]) -> str:  # noqa: ARG002
        """The layers of each model, for people."""
        each = zip(self.parts, self.spec_of_all.blocks, strict=True)
        return " + ".join(part.places(blocks) for part, blocks in each)

    def units(self) -> list[dict[str, Any]]:
        """As plain data, the unit of each model and its own median norms at its layers; loads them."""
        return [{"unit": p.unit, "residual_norms": list(p.residual_norms)} for p in self.loaded.parts]

    def columns(self, units: Sequence[Mapping[str, Any]]) -> tuple[SourcePart, ...]:
        """The models in the order of a row, by their `units`."""
        each = zip(self.parts, self.spec_of_all.blocks, units, strict=True)
        return tuple(
            SourcePart(
                part.spec.name,
                LayerConcat(blocks, part.width),
                known["unit"],
                tuple(known["residual_norms"]),
            )
            for part, blocks, known in each
        )
