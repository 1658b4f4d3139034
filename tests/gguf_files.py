"""A tiny Qwen2 written as a GGUF file by the format's own package: weights, tokenizer, chat template."""

from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

BEGIN, ENDED = "<|endoftext|>", "<|im_end|>"
MERGES = ["o n", "on c", "onc e", "Ġ u", "Ġu p", "Ġup on"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*BYTES, *(merge.replace(" ", "") for merge in MERGES), BEGIN, "<|im_start|>", ENDED]
TEXTS = ["once upon a time", f"{BEGIN}Où ?\n\t1 + 1", f"<|im_start|>user\nonce{ENDED}\n"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
}


def original(seed: int = 0, blocks: int = 3) -> Any:
    """The model that is written, float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            "qwen2",
            vocab_size=len(TOKENS),
            initializer_range=0.3,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=TOKENS.index(ENDED),
            **SIZES | {"num_hidden_layers": blocks},
        )
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == 16_992 + blocks * 9_344  # a misspelt size would make a full one
    return model


def write_gguf(
    path: Path,
    quantised: bool,
    seed: int = 0,
    blocks: int = 3,
    exclude: str = "",
    template: str | None = TEMPLATE,
    pre: str = "qwen2",
    add_bos: bool | None = False,
) -> Path:
    """Write `original(seed, blocks)`, quantised to 8 bits or in float32, without the tensor `exclude`.

    pre, add_bos  The tokenizer's rules; with None the file does not say whether texts begin with the BOS.
    """
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(blocks)
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_layer_norm_rms_eps(SIZES["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index(BEGIN))
    writer.add_eos_token_id(TOKENS.index(ENDED))
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if template:
        writer.add_chat_template(template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, blocks)
    for name, tensor in original(seed, blocks).state_dict().items():
        if name == exclude:
            continue
        values = tensor.numpy()
        matrix = quantised and values.ndim == 2
        kind = gguf.GGMLQuantizationType.Q8_0 if matrix else gguf.GGMLQuantizationType.F32
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(ours, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
