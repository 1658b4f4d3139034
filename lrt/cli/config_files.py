"""Config files as users write them: what Hydra and YAML cannot read is named by file and line."""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.errors import CompactHydraException

from lrt.storage.text_files import BOM, FileUnreadable, read_text


class ConfigUnreadable(CompactHydraException):
    """A config file that cannot be read; Hydra prints it without a traceback."""


def name_unreadable_files() -> None:
    """Names the file and line of every config that cannot be read, in this process from here on."""
    load = ConfigRepository.load_config
    if hasattr(load, "__wrapped__"):
        return

    @wraps(load)
    def checked(self: ConfigRepository, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return load(self, config_path)
        path = Path(os.path.realpath(Path(source.path) / source._normalize_file_name(config_path)))
        try:
            read_text(path)
            if path.read_bytes().startswith(BOM.encode()):
                # Hydra would not see the line `# @package`
                raise FileUnreadable(f"{path} begins with a byte order mark; save it as UTF-8 without one")
            return load(self, config_path)
        except FileUnreadable as error:
            raise ConfigUnreadable(f"config file {error}") from error
        except yaml.YAMLError as error:
            raise ConfigUnreadable(f"config file {path} is not valid YAML: {error}") from error
        except RecursionError as error:
            raise ConfigUnreadable(f"config file {path} is nested too deeply") from error

    ConfigRepository.load_config = checked  # type: ignore[method-assign]
