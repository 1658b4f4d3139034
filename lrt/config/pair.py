"""The section `pair`: which two models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from lrt.config.errors import ConfigError
from lrt.models import ModelSpec

Template = Literal["auto", "source", "target"]
OneModel = Annotated[
    ModelSpec, BeforeValidator(lambda given: {"path": given} if isinstance(given, str) else given)
]
Source = Annotated[
    Annotated[OneModel, Tag("one")] | Annotated[tuple[OneModel, ...], Tag("several")],
    Discriminator(lambda given: "several" if isinstance(given, list | tuple) else "one"),
]


@dataclass(frozen=True)
class PairSettings:
    """The two models, each by its path or its settings.

    name     For people. Where it is empty, it is made of the models' paths.
    source   One model, or a list of several, whose states the map reads side by side.
    models   A folder with local copies of the hub's models, each in a folder of its own under the last part
             of its id, whatever the case: as `save_pretrained` writes it, or with one GGUF file.
    reverse  Swap source and target. `read_config` has done it already: `layers` and all else refer to the
             models in the order in which they are used.
    template  Whose chat template requests are written in. `auto`: the source's, or the target's where the
             source has none. With two tokenizers it must be `auto`: each model reads chats in its own, and
             several sources all in the first one's.
    template_kwargs  Arguments of that template (of each that reads them), as `{enable_thinking: false}`.
    """

    name: str
    source: Source
    target: OneModel
    models: str | None = None
    reverse: bool = False
    template: Template = "auto"
    template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.source == ():
            raise ConfigError("pair.source=[] names no model; give at least one")
        if len(self.sources) == 1:
            object.__setattr__(self, "source", self.sources[0])
        if not self.name:
            sources = " + ".join(spec.path for spec in self.sources)
            object.__setattr__(self, "name", f"{sources} -> {self.target.path}")

    @property
    def sources(self) -> tuple[ModelSpec, ...]:
        """The source models."""
        return (self.source,) if isinstance(self.source, ModelSpec) else self.source

    @property
    def by_setting(self) -> dict[str, ModelSpec]:
        """Every model, by the setting that names it."""
        several = len(self.sources) > 1
        sources = {f"pair.source.{n}" if several else "pair.source": s for n, s in enumerate(self.sources)}
        return {**sources, "pair.target": self.target}

    @property
    def label(self) -> str:
        """Both sides' names, for people."""
        return f"{' + '.join(spec.name for spec in self.sources)} -> {self.target.name}"

    def resolved(self) -> PairSettings:
        """The pair as it is used: local copies if `models` names a folder, swapped if `reverse` says so.

        Raises ConfigError for a model without a local copy, and for several sources that would be the target.
        """
        sources, target = tuple(map(self._local, self.sources)), self._local(self.target)
        source: Source = sources if len(sources) > 1 else sources[0]
        name, template = self.name, self.template
        if self.reverse:
            if not isinstance(source, ModelSpec):
                raise ConfigError(
                    f"pair.reverse=true: pair.source names {len(sources)} models, and a pair has one target; "
                    "name one source, or leave reverse out"
                )
            swapped: dict[Template, Template] = {"auto": "auto", "source": "target", "target": "source"}
            name, source, target = f"{self.name}, reversed", target, source
            template = swapped[self.template]
        return replace(
            self, name=name, source=source, target=target, models=None, reverse=False, template=template
        )

    def _local(self, spec: ModelSpec) -> ModelSpec:
        if self.models is None:
            return spec
        folder, wanted = Path(self.models).expanduser(), Path(spec.path).name
        folders = sorted(each for each in folder.glob("*") if each.is_dir())
        copy = next((each for each in folders if each.name.casefold() == wanted.casefold()), None)
        whole = copy is not None and (copy / "config.json").is_file()
        files = sorted(copy.glob("*.gguf")) if copy and not whole else []
        if copy is None or not (whole or len(files) == 1):
            listed = ", ".join(each.name for each in (files if copy else folders)) or "none"
            raise ConfigError(
                f"pair.models={self.models} has no copy of {spec.path}: expected a folder {wanted} with "
                f"config.json and safetensors, or with one GGUF file; {copy or folder} has the "
                f"{'GGUF files' if copy else 'folders'} {listed}"
            )
        # a revision belongs to the hub's repository, a copy is one state of it
        return replace(spec, path=str(files[0] if files else copy), revision=None)
