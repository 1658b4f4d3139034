"""One model in the tokens of two tokenizers: its states at the end of a text are the same in both."""

import copy
import json
from collections.abc import Iterable
from typing import Any

import torch
from storybook_models import tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lrt.models import LanguageModel, ModelSpec

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer_of(texts: Iterable[str], size: int = 900) -> Any:
    """Byte-level BPE that has learned these texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<bos>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@torch.no_grad()
def last_byte_model(tokenizer: Any) -> LanguageModel:
    """A model whose state at a token is of the text's last byte alone, whatever the tokens before."""
    lm = tiny_llama(tokenizer, width=16, seed=5)  # fewer dimensions than texts have last bytes
    for layer in lm.model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    table = torch.randn(256, lm.width, generator=torch.Generator().manual_seed(1))
    for token, id_ in tokenizer.get_vocab().items():
        lm.model.model.embed_tokens.weight[id_] = table[ord(token[-1]) % 256]
    return lm


def with_other_ids(lm: LanguageModel) -> LanguageModel:
    """The same model with its vocabulary in reverse order."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    last = len(tokenizer) - 1
    written["model"]["vocab"] = {token: last - id_ for token, id_ in written["model"]["vocab"].items()}
    for token in written["added_tokens"]:
        token["id"] = last - token["id"]
    core = Tokenizer.from_str(json.dumps(written))
    renamed = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>")
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight.copy_(weight.flip(0))
    return LanguageModel(ModelSpec("renamed"), model, renamed)
