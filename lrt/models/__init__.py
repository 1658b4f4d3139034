"""A language model as a numbered stack of blocks, read and written between any two of them.

`load` turns a `ModelSpec` (hub id, local folder, GGUF file) into a `LanguageModel`; `capture` and
`steer` read and write block outputs; `compute_prefix`, `tail_logits` and `generate` run what lies
below the steered block once and only the tail for every strength and condition. This folder is
the only place that registers a torch hook.
"""

from lrt.models.blocks import NoBlocks
from lrt.models.errors import ModelNotLoadable
from lrt.models.hooks import Edit, Intervention, capture, steer
from lrt.models.language_model import Keep, LanguageModel, resolve_layer
from lrt.models.loading import depth_of, identity, load, load_tokenizer, quiet_loading
from lrt.models.padding import last_columns, pad, positions_of
from lrt.models.prefix import Prefix, RowwiseEdit, Sampling, compute_prefix, generate, tail_logits
from lrt.models.spec import ModelSpec
from lrt.models.tokenization import TokenizersDiffer, check_same_tokenizer, tokenizer_digest

__all__ = [
    "Edit",
    "Intervention",
    "Keep",
    "LanguageModel",
    "ModelNotLoadable",
    "ModelSpec",
    "NoBlocks",
    "Prefix",
    "RowwiseEdit",
    "Sampling",
    "TokenizersDiffer",
    "capture",
    "check_same_tokenizer",
    "compute_prefix",
    "depth_of",
    "generate",
    "identity",
    "last_columns",
    "load",
    "load_tokenizer",
    "pad",
    "positions_of",
    "quiet_loading",
    "resolve_layer",
    "steer",
    "tail_logits",
    "tokenizer_digest",
]
