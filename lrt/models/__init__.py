"""Language models with numbered decoder blocks, whose hidden states can be read and edited.

- `load` turns a `ModelSpec` (hub id, local folder, GGUF file) into a `LanguageModel`.
- `capture` and `steer` read and edit block outputs. Only this folder registers torch hooks.
- `compute_prefix`, `tail_logits` and `generate` compute the blocks up to the steered one once per item, and
  only the blocks above for every strength and condition.
- What a family allows beyond that is found by running it (`lrt.models.capabilities`).
"""

from lrt.models.blocks import BlockModel, NoBlocks, blocks_name
from lrt.models.capabilities import FamilyNotSupported
from lrt.models.decoding import NonFiniteLogits
from lrt.models.errors import ModelNotLoadable
from lrt.models.hooks import Edit, Intervention, RowwiseEdit, capture, steer
from lrt.models.language_model import Keep, LanguageModel, resolve_layer
from lrt.models.loading import depth_and_width_of, identity, load, load_tokenizer, quiet_loading
from lrt.models.padding import last_columns, pad, positions_of
from lrt.models.prefix import Prefix, compute_prefix, generate, tail_logits
from lrt.models.sampling import Sampling, sampling_facts
from lrt.models.spec import ModelSpec
from lrt.models.tokenization import TokenizersDiffer, check_same_tokenizer, same_tokens, tokenizer_digest

__all__ = [
    "BlockModel",
    "Edit",
    "FamilyNotSupported",
    "Intervention",
    "Keep",
    "LanguageModel",
    "ModelNotLoadable",
    "ModelSpec",
    "NoBlocks",
    "NonFiniteLogits",
    "Prefix",
    "RowwiseEdit",
    "Sampling",
    "TokenizersDiffer",
    "blocks_name",
    "capture",
    "check_same_tokenizer",
    "compute_prefix",
    "depth_and_width_of",
    "generate",
    "identity",
    "last_columns",
    "load",
    "load_tokenizer",
    "pad",
    "positions_of",
    "quiet_loading",
    "resolve_layer",
    "same_tokens",
    "sampling_facts",
    "steer",
    "tail_logits",
    "tokenizer_digest",
]
