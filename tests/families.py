"""Tiny configs of families, by model_type: the class that oracles build, and sizes nowhere equal by chance."""

from __future__ import annotations

from typing import Any

_BERT: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 20, "max_position_embeddings": 17,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": 31, "d_model": 12, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 20,
    "decoder_layers": 3, "decoder_attention_heads": 3, "decoder_ffn_dim": 22,
}  # fmt: skip
_VIT: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert": ("DistilBertForSequenceClassification", {
        "vocab_size": 31, "dim": 12, "n_layers": 3, "n_heads": 4, "hidden_dim": 20, "max_position_embeddings": 17,
    }),
    "electra": ("ElectraForSequenceClassification", _BERT | {"embedding_size": 7}),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", _BERT),
    "albert": ("AlbertForSequenceClassification", _BERT | {"embedding_size": 7, "num_hidden_groups": 2}),
    "deberta": ("DebertaForSequenceClassification", _BERT | {
        "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
    }),
    "modernbert": ("ModernBertForSequenceClassification", _BERT | {
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    }),
    "bart": ("BartForConditionalGeneration", _BART | {"max_position_embeddings": 17}),
    "mbart": ("MBartForConditionalGeneration", _BART | {"max_position_embeddings": 17}),
    "pegasus": ("PegasusForConditionalGeneration", _BART | {"max_position_embeddings": 17}),
    "mt5": ("MT5ForConditionalGeneration", {
        "vocab_size": 31, "d_model": 10, "d_kv": 3, "d_ff": 22, "num_layers": 2, "num_heads": 4,
        "num_decoder_layers": 3,
    }),
    "whisper": ("WhisperForConditionalGeneration", _BART | {
        "num_mel_bins": 5, "max_source_positions": 14, "max_target_positions": 11, "classifier_proj_size": 9,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }),
    "clip": ("CLIPModel", {
        "projection_dim": 9,
        "text_config": {
            "vocab_size": 31, "hidden_size": 10, "intermediate_size": 22, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 17, "bos_token_id": 1, "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 20, "patch_size": 6,
        },
    }),
    "dinov2": ("Dinov2ForImageClassification", _VIT | {"mlp_ratio": 3, "image_size": 30, "patch_size": 7}),
    "swin": ("SwinForImageClassification", {
        "embed_dim": 6, "depths": [1, 2, 3, 2], "num_heads": [1, 2, 3, 4], "window_size": 3, "mlp_ratio": 2.5,
        "image_size": 40, "patch_size": 3, "num_channels": 2,
    }),
}  # fmt: skip

_OTHER: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 20,
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v2": ("DebertaV2Model", _OTHER | {"pos_att_type": "p2c|c2p", "relative_attention": True}),
    "mistral": ("MistralForCausalLM", _OTHER | {"num_key_value_heads": 2, "head_dim": 4}),
    "qwen2": ("Qwen2ForCausalLM", _OTHER | {"num_key_value_heads": 2}),
    "t5 without gates": ("T5ForConditionalGeneration", {
        "vocab_size": 37, "d_model": 16, "d_kv": 3, "num_heads": 6, "d_ff": 22, "num_layers": 2,
    }),
}  # fmt: skip
"""Of further families, as the oracles of peft build them."""
