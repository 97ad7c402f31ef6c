"""Tiny models of the decoder-only families: odd, unequal sizes, and every switch thrown at least once."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_PLAIN: Config = {
    "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 34,
}  # fmt: skip
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_WIDE = _GROUPED | {"head_dim": 10}
_EXPERTS: Config = {"moe_intermediate_size": 14, "num_experts_per_tok": 2}
_LATENT: Config = {
    "q_lora_rank": 9, "kv_lora_rank": 7, "qk_nope_head_dim": 3, "qk_rope_head_dim": 4, "v_head_dim": 5,
    "n_routed_experts": 6, "n_shared_experts": 2, "first_k_dense_replace": 1,
}  # fmt: skip
_OPT = _PLAIN | {"ffn_dim": 34, "max_position_embeddings": 17, "word_embed_proj_dim": 10}
_FALCON = {k: v for k, v in _PLAIN.items() if k != "intermediate_size"}
_BIGCODE: Config = {"vocab_size": 31, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 17, "n_inner": 34}
_NEO: Config = {
    "vocab_size": 31, "hidden_size": 24, "num_layers": 3, "num_heads": 4, "intermediate_size": 34,
    "attention_types": [[["global"], 3]], "max_position_embeddings": 17,
}  # fmt: skip
_J: Config = {"vocab_size": 31, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 34, "rotary_dim": 4}
_GROUP_LIMITS = {"n_group": 2, "topk_group": 1}

TINY: dict[str, tuple[str, Config]] = {
    "opt": ("OPTForCausalLM", _OPT),
    "bloom": ("BloomForCausalLM", {"vocab_size": 31, "hidden_size": 24, "n_layer": 3, "n_head": 4}),
    "gpt_neo": ("GPTNeoForCausalLM", _NEO),
    "gpt_neox": ("GPTNeoXForCausalLM", _PLAIN),
    "gptj": ("GPTJForCausalLM", _J),
    "phi": ("PhiForCausalLM", _GROUPED),
    "phi3": ("Phi3ForCausalLM", _GROUPED | {"pad_token_id": 0}),
    "gemma": ("GemmaForCausalLM", _WIDE),
    "gemma2": ("Gemma2ForCausalLM", _WIDE),
    "gemma3_text": ("Gemma3ForCausalLM", _WIDE),
    "qwen3": ("Qwen3ForCausalLM", _WIDE),
    "mixtral": ("MixtralForCausalLM", _GROUPED | {"num_local_experts": 5}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _GROUPED | _EXPERTS | {
        "num_experts": 5, "shared_expert_intermediate_size": 18,
    }),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _WIDE | _EXPERTS | {"num_local_experts": 5}),
    "qwen3_next": ("Qwen3NextForCausalLM", _WIDE | _EXPERTS | {
        "num_hidden_layers": 5, "num_experts": 5, "shared_expert_intermediate_size": 18, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6, "linear_key_head_dim": 5, "linear_value_head_dim": 7,
    }),
    "olmo": ("OlmoForCausalLM", _GROUPED),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED),
    "olmoe": ("OlmoeForCausalLM", _GROUPED | {"num_experts": 5, "num_experts_per_tok": 2}),
    "falcon": ("FalconForCausalLM", _FALCON),
    "mpt": ("MptForCausalLM", {"vocab_size": 31, "d_model": 24, "n_layers": 3, "n_heads": 4}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _BIGCODE),
    "deepseek_v2": ("DeepseekV2ForCausalLM", _PLAIN | _EXPERTS | _LATENT),
    "deepseek_v3": ("DeepseekV3ForCausalLM", _PLAIN | _EXPERTS | _LATENT | _GROUP_LIMITS),
    "gpt_oss": ("GptOssForCausalLM", _WIDE | {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "glm4": ("Glm4ForCausalLM", _WIDE | {"pad_token_id": 0}),
    "glm4_moe": ("Glm4MoeForCausalLM", _WIDE | _EXPERTS | {"n_routed_experts": 5, "n_shared_experts": 2}),
    "cohere": ("CohereForCausalLM", _GROUPED),
    "cohere2": ("Cohere2ForCausalLM", _GROUPED),
    "starcoder2": ("Starcoder2ForCausalLM", _GROUPED),
    "stablelm": ("StableLmForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", _GROUPED | {"pad_token_id": 0}),
    "granite": ("GraniteForCausalLM", _GROUPED),
    "llama4_text": ("Llama4ForCausalLM", _WIDE | {
        "intermediate_size_mlp": 22, "num_local_experts": 5, "interleave_moe_layer_step": 2,
    }),
}  # fmt: skip
"""By model_type: the class of `transformers` and its config."""

_UNTIED = {"tie_word_embeddings": False}
_TIED = {"tie_word_embeddings": True}
_BIASED = {"attention_bias": True}
_ALIKE = {"num_key_value_heads": None}
_LINEAR = ["linear_attention"] * 4


def _without(config: Config, *keys: str) -> Config:
    return {k: v for k, v in config.items() if k not in keys}


_CHANGES: list[tuple[str, Config]] = [
    ("opt", {"word_embed_proj_dim": None, "do_layer_norm_before": False, "enable_bias": False} | _UNTIED),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("opt", {"_remove_final_layer_norm": True, "word_embed_proj_dim": 24}),
    ("bloom", _UNTIED),
    ("gpt_neo", {"intermediate_size": None} | _UNTIED),
    ("gpt_neox", _BIASED | _TIED),
    ("gpt_neox", {"attention_bias": False}),
    ("gptj", {"n_inner": None} | _TIED),
    ("phi", {"qk_layernorm": True} | _ALIKE | _TIED),
    ("phi3", _ALIKE | _TIED),
    ("gemma", _BIASED | _UNTIED),
    ("gemma2", _BIASED | _UNTIED),
    ("gemma3_text", _BIASED | _UNTIED),
    ("qwen3", _BIASED | _TIED | _ALIKE),
    ("mixtral", {"head_dim": 10} | _TIED),
    ("qwen2_moe", {"qkv_bias": False, "mlp_only_layers": [1, 7]} | _TIED),
    ("qwen2_moe", {"decoder_sparse_step": 2, "mlp_only_layers": None}),
    ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [0]} | _BIASED | _TIED),
    ("qwen3_next", {"layer_types": ["full_attention", *_LINEAR], "mlp_only_layers": [1]} | _BIASED | _TIED),
    ("qwen3_next", {"full_attention_interval": 2, "linear_conv_kernel_dim": 3, "layer_types": None}),
    ("olmo", _BIASED | _TIED | _ALIKE),
    ("olmo2", _BIASED | _TIED | _ALIKE),
    ("olmoe", _BIASED | _TIED | _ALIKE),
    ("falcon", {"bias": True, "alibi": True, "ffn_hidden_size": 34} | _UNTIED),
    ("falcon", {"multi_query": False, "parallel_attn": False}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 4}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    ("mpt", _UNTIED),
    ("gpt_bigcode", {"multi_query": False, "n_inner": None} | _UNTIED),
    ("deepseek_v2", {"q_lora_rank": None, "first_k_dense_replace": 0, "attention_bias": True, "mlp_bias": True}),
    ("deepseek_v3", {"q_lora_rank": None, "first_k_dense_replace": 2} | _TIED),
    ("deepseek_v3", _BIASED),
    ("gpt_oss", {"attention_bias": False} | _TIED),
    ("glm4", {"attention_bias": False} | _TIED),
    ("glm4_moe", {"first_k_dense_replace": 2, "use_qk_norm": True} | _BIASED | _TIED),
    ("cohere", {"use_qk_norm": True} | _BIASED | _UNTIED),
    ("cohere2", {"head_dim": 8} | _BIASED | _UNTIED | _ALIKE),
    ("starcoder2", {"use_bias": False} | _UNTIED),
    ("stablelm", {"use_qkv_bias": True, "use_parallel_residual": True} | _TIED),
    ("smollm3", {"mlp_bias": True} | _BIASED | _UNTIED | _ALIKE),
    ("granite", {"mlp_bias": True} | _BIASED | _TIED | _ALIKE),
    ("llama4_text", {"moe_layers": [0, 2]} | _BIASED | _TIED),
    ("llama4_text", {"moe_layers": [1, 9]}),
]
VARIANTS: list[tuple[str, Config]] = [
    *((family, config) for family, (_, config) in TINY.items()),
    *((family, TINY[family][1] | change) for family, change in _CHANGES),
    ("bloom", {"vocab_size": 31, "n_embed": 36, "num_hidden_layers": 2, "num_attention_heads": 3}),
    ("gptj", {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "rotary_dim": 2}),
    ("mixtral", _without(TINY["mixtral"][1], "num_local_experts") | {"num_experts": 3}),
]
"""Configs that together throw every switch."""

SUFFIXES: dict[str, list[list[str] | str]] = {
    "opt": [["q_proj", "v_proj"], ["fc1"], ["project_in", "out_proj"], ["layers.2.self_attn.k_proj"]],
    "bloom": [["query_key_value"], ["dense"], ["1.mlp.dense_h_to_4h"]],
    "gpt_neo": [["q_proj", "v_proj"], ["attention.out_proj", "c_fc"]],
    "gpt_neox": [["query_key_value"], ["attention.dense", "dense_4h_to_h"]],
    "gptj": [["q_proj", "v_proj"], ["fc_in"]],
    "phi": [["q_proj", "v_proj"], ["dense", "fc2"]],
    "phi3": [["qkv_proj"], ["gate_up_proj", "o_proj"]],
    "gpt_oss": [["q_proj", "v_proj"], ["o_proj"]],
    "falcon": [["query_key_value"], ["self_attention.dense"]],
    "mpt": [["Wqkv"], ["up_proj", "out_proj"]],
    "gpt_bigcode": [["c_attn"], ["c_proj"], ["attn.c_proj"]],
    "glm4": [["q_proj", "gate_up_proj"]],
    "starcoder2": [["q_proj", "c_fc"]],
    "deepseek_v2": [["q_b_proj", "kv_b_proj"], ["o_proj"]],
    "deepseek_v3": [["q_a_proj", "kv_a_proj_with_mqa"], ["layers.1.self_attn.o_proj"]],
    "qwen2_moe": [["shared_expert_gate", "down_proj"]],
    "llama4_text": [["router", "q_proj"], ["down_proj"], ["1.feed_forward.shared_expert.up_proj"]],
}
"""Names of linear modules as users of peft give them; ["q_proj", "v_proj"] for the other families."""
