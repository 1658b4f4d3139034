"""What a config may hold, as typed and frozen data, and how it is read from what Hydra composed."""

from lrt.config.corpus import Corpus, CorpusSource
from lrt.config.errors import ConfigError
from lrt.config.pair import PairSettings
from lrt.config.reading import read_config, read_section, refuse_old_names
from lrt.config.schema import Config
from lrt.config.sections import Analysis, Batches, Evaluation, Layers, Logging, Paths, Price, Recording, Sae

__all__ = [
    "Analysis",
    "Batches",
    "Config",
    "ConfigError",
    "Corpus",
    "CorpusSource",
    "Evaluation",
    "Layers",
    "Logging",
    "PairSettings",
    "Paths",
    "Price",
    "Recording",
    "Sae",
    "read_config",
    "read_section",
    "refuse_old_names",
]
