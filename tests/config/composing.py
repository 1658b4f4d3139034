"""Composed configs for tests: each set of options is composed once, values are changed without Hydra."""

import copy
from functools import cache

import yaml
from omegaconf import DictConfig, OmegaConf
from running import composed

from lrt.config import Config, read_config

OWN = ("pair=own", "pair.source.path=SMALL", "pair.target.path=LARGE")


@cache
def _composed(options: tuple[str, ...]) -> DictConfig:
    return composed("train", *OWN, *options)


def changed(*settings: str, options: tuple[str, ...] = ()) -> DictConfig:
    """The composed config with `path=value` changed or added, as `path=value` and `+path=value` do."""
    config = copy.deepcopy(_composed(options))
    for setting in settings:
        path, value = setting.split("=", 1)
        OmegaConf.update(config, path, yaml.safe_load(value), force_add=True)
    return config


def read(*settings: str, options: tuple[str, ...] = ()) -> Config:
    return read_config(changed(*settings, options=options))
