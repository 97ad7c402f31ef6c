"""Tiny models on which memory by operations is held against simulated steps: sizes nowhere equal by chance."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIGS", "TASKS"]

_BERT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 44,
    "max_position_embeddings": 39,
}  # fmt: skip
_LLAMA: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 44, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "gpt2": {"vocab_size": 61, "n_embd": 24, "n_layer": 5, "n_head": 4, "n_inner": 44, "n_positions": 39},
    "llama": _LLAMA,
    "roberta": _BERT,
    "t5": {
        "vocab_size": 61, "d_model": 24, "d_kv": 5, "d_ff": 44, "num_layers": 5, "num_heads": 4,
        "num_decoder_layers": 6,
    },
}  # fmt: skip
"""By family, the config.json of a model with layers enough that some are counted and not run."""
TASKS: dict[str, str] = {}
"""The task that is trained, where it is not the family's own (or classification)."""
