"""Where configuration, W&B and the science meet: the only folder that knows Hydra, OmegaConf and W&B."""

from lrt.runtime import show
from lrt.runtime.entry import command
from lrt.runtime.pipeline import Pipeline, outcome
from lrt.runtime.schema import Config, ConfigError, read_config
from lrt.runtime.session import Session

__all__ = ["Config", "ConfigError", "Pipeline", "Session", "command", "outcome", "read_config", "show"]
