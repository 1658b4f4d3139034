"""A tiny model with random weights of every causal family that transformers can build from a config."""

import copy
import dataclasses
from typing import Any

import torch
from models.model_families import DEPTH, VOCABULARY, WIDTH
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

# One number for every name that families use for a size. A name that a config lacks is not set.
SIZES: tuple[tuple[float, str], ...] = (
    (VOCABULARY, """vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size"""),
    (WIDTH, "hidden_size n_embd d_model dim emb_dim embedding_size lru_width"),
    (
        48,
        """intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim d_ff dff ffn_hidden_size d_inner
        feed_forward_size dim_ff intermediate_size_mlp block_ff_dim""",
    ),
    (
        DEPTH,
        """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers
        num_encoder_layers num_blocks num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads mamba_n_heads
        mamba_num_heads mamba_dt_rank time_step_rank linear_num_value_heads linear_num_heads index_n_heads
        kda_num_heads num_local_experts num_experts n_routed_experts moe_num_experts sliding_window
        laurel_rank rotary_dim qk_rope_head_dim patch_size swa_num_attention_heads sliding_window_size
        d_rel window_size adapter_rank n_mamba_heads""",
    ),
    (
        2,
        """num_key_value_heads num_global_key_value_heads num_experts_per_tok top_k_experts moe_topk moe_k
        num_experts_per_token linear_num_key_heads mamba_expand expert_layer_period expert_layer_offset
        attn_layer_period swa_num_key_value_heads""",
    ),
    (
        8,
        """head_dim kv_channels d_kv attention_head_size attention_chunk_size kv_lora_rank qk_nope_head_dim
        v_head_dim o_lora_rank state_size mamba_d_state ssm_state_size chunk_size linear_key_head_dim
        linear_value_head_dim linear_head_dim kda_head_dim attention_window_size index_head_dim
        mamba_chunk_size hidden_size_per_layer_input global_head_dim image_size swa_head_dim
        pronunciation_embed_dim shape_embed_dim""",
    ),
    (
        16,
        """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size q_lora_rank
        expert_ffn_hidden_size moe_ffn_dim expert_intermediate_size moe_shared_expert_intermediate_size
        mamba_d_head mamba_head_dim mamba_headdim rel_extent""",
    ),
    (64, "max_position_embeddings n_positions n_ctx max_seq_len index_topk mamba_d_ssm"),
    (12, "qk_head_dim"),
    (3, "conv_L_cache"),
    (
        1,
        """n_group topk_group n_shared_experts first_k_dense_replace mamba_n_groups mamba_ngroups n_groups
        type_vocab_size num_mem_blocks bos_token_id attn_layer_offset expert_layer_offset""",
    ),
    (0, "pad_token_id num_kv_shared_layers activation_dropout"),
    # wide enough an initialisation that blocks do something
    (0.3, "initializer_range init_std"),
)
NAMES = {name: size for size, names in SIZES for name in names.split()} | {
    "eos_token_id": 2,
    "is_decoder": True,
    "tie_word_embeddings": False,
    "add_cross_attention": False,
}
MIXED = ["linear_attention", "full_attention"] * 2
LATENT = {"head_dim": 4, "num_key_value_heads": 4}  # multi-head latent attention
INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "hc_lowrank": 8,
}
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"),
            *("minicpm3", "youtu"),
        ),
        LATENT,
    ),
    "bailing_hybrid": {"head_dim": 8, "layer_types": MIXED, "num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    # three blocks read the keys and values of the first two
    "gemma4_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": MIXED, "position_embedding_type": "rope"},
    "kimi_linear": {"layer_types": MIXED, "num_key_value_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16},
    **{family: {"layer_types": MIXED} for family in ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")},
    "qwen4_exp": INDEXED,
    "qwen4_exp_text": INDEXED,
    "reformer": {
        "axial_pos_embds_dim": [8, 24],
        "axial_pos_shape": [8, 8],
        "attn_layers": ["local", "lsh"] * 2,
        "hash_seed": 0,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "xlstm": {"chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layer_types": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1},
}
LARGEST = 3_000_000


class NotTiny(Exception):
    """The config could not be made small."""


def build(family: str) -> Any:
    """A model of a family (a key of `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES`), in evaluation mode."""
    kind = CONFIG_MAPPING[family]
    default = kind()
    text = next((name for name, part in vars(default).items() if part is default.get_text_config()), None)
    if text is None:
        config = kind(**_small(default) | MORE.get(family, {}))
    else:
        parts = {name: _small(part) for name, part in vars(default).items() if hasattr(part, "to_dict")}
        parts[text] |= MORE.get(family, {})
        config = kind(**parts)
    with torch.device("meta"):  # first without memory
        size = AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters()
    if size > LARGEST:
        raise NotTiny(f"{family} has {size:,} parameters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _small(config: Any) -> dict[str, Any]:
    """The sizes that a config has, small."""
    other_names = dict(getattr(type(config), "attribute_map", None) or {})
    own = {*vars(config), *(field.name for field in dataclasses.fields(config)), *other_names}
    return {other_names.get(name, name): size for name, size in NAMES.items() if name in own}
