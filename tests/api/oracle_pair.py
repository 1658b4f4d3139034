"""A pair of models whose target's states are an exact linear image of the source's."""

import copy
from dataclasses import dataclass

import torch
from storybook_models import image_of, semi_orthogonal
from torch import Tensor

from lrt.models import LanguageModel, ModelSpec

SCALE = 3.0
LAYER = 1
GRID_SETTINGS = {"pool": 4, "folds": 4, "tokens": 8192}


@dataclass(frozen=True)
class Oracle:
    """A target whose states are `SCALE * q` times those of the source."""

    source: LanguageModel
    target: LanguageModel
    q: Tensor  # [d_target, d_source]

    @classmethod
    def of(cls, source: LanguageModel, width: int = 48) -> "Oracle":
        q = semi_orthogonal(width, source.width)
        return cls(source, image_of(source, q, SCALE), q)


@torch.no_grad()
def one_block_later(lm: LanguageModel) -> LanguageModel:
    """The model behind a first block that changes nothing: its block `l + 1` is block `l` of `lm`."""
    model = copy.deepcopy(lm.model)
    first = copy.deepcopy(model.model.layers[0])
    for projection in (first.self_attn.o_proj, first.mlp.down_proj):
        projection.weight.zero_()
    model.model.layers.insert(0, first)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers += 1
    return LanguageModel(ModelSpec(f"later-{lm.spec.name}"), model, lm.tokenizer)
