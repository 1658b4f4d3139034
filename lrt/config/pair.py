"""The section `pair`: which two models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lrt.config.errors import ConfigError
from lrt.models import ModelSpec

Template = Literal["auto", "source", "target"]


@dataclass(frozen=True)
class PairSettings:
    """The two models. `name` is for people.

    models   A folder with local copies of the hub's models, each in a folder of its own under the last part
             of its id, whatever the case: as `save_pretrained` writes it, or with one GGUF file.
    reverse  Swap source and target. `read_config` has done it already: `layers` and all else refer to the
             models in the order in which they are used.
    template Whose chat template requests are written in. `auto`: the source's, or the target's where the
             source has none. With two tokenizers it must be `auto`: each model reads chats in its own.
    template_kwargs  Arguments of that template (of each that reads them), as `{enable_thinking: false}`.
    """

    name: str
    source: ModelSpec
    target: ModelSpec
    models: str | None = None
    reverse: bool = False
    template: Template = "auto"
    template_kwargs: dict[str, Any] | None = None

    def resolved(self) -> PairSettings:
        """The pair as it is used: local copies if `models` names a folder, swapped if `reverse` says so.

        Raises ConfigError for a model without a local copy.
        """
        source, target = (self._local(spec) for spec in (self.source, self.target))
        name, template = self.name, self.template
        if self.reverse:
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
