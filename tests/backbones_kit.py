"""Families, small models and totals that the tests of backbones share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from peftonomy.backbones.backbone import Backbone, Inventory, load_model
from peftonomy.errors import ConfigError
from peftonomy.files.documents import load_yaml
from peftonomy.schema.family import Family, load_family
from tests import families as more
from tests import families_decoders as decoders

transformers.logging.set_verbosity_error()      # it warns of every odd config that these tests write

DATA = Path(__file__).parent.parent / "backbones"
FAMILIES = {path.stem: load_family(path) for path in sorted((DATA / "families").glob("*.yaml"))}
MODELS = {p.stem: load_model(p, families=FAMILIES) for p in sorted((DATA / "models").glob("*.yaml"))}
LABELS = 3

# Totals that others publish: of checkpoints, or of the models in papers.
TOTALS = {
    "bert_base": 109_482_240,
    "bert_large": 335_141_888,
    "roberta_base": 124_645_632,
    "roberta_large": 355_359_744,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_3_2_3b": 3_212_749_824,
    "albert_base_v2": 11_683_584,
    "albert_large_v2": 17_683_968,
    "albert_xlarge_v2": 58_724_864,
    "albert_xxlarge_v2": 222_595_584,
    "bart_base": 139_420_416,
    "bart_large": 406_291_456,
    "bert_base_cased": 108_310_272,
    "bert_base_chinese": 102_267_648,
    "bert_base_multilingual": 177_853_440,
    "bert_medium": 41_373_184,
    "bert_mini": 11_170_560,
    "bert_small": 28_763_648,
    "bert_tiny": 4_385_920,
    "clip_vit_b_16": 149_620_737,
    "clip_vit_b_32": 151_277_313,
    "clip_vit_h_14": 986_109_441,
    "clip_vit_l_14": 427_616_513,
    "clip_vit_l_14_336": 427_944_193,
    "deberta_v3_large": 434_012_160,
    "deberta_v3_xsmall": 70_682_112,
    "dinov2_base": 86_580_480,
    "dinov2_giant": 1_136_480_768,
    "dinov2_large": 304_368_640,
    "dinov2_small": 22_056_576,
    "distilbert_base": 66_362_880,
    "distilbert_base_multilingual": 134_734_080,
    "distilroberta_base": 82_118_400,
    "electra_base": 108_891_648,
    "electra_large": 334_092_288,
    "mbart_large_50": 610_879_488,
    "mbart_large_cc25": 610_851_840,
    "modernbert_base": 149_014_272,
    "modernbert_large": 394_781_696,
    "pegasus_large": 570_797_056,
    "swin_base": 86_743_224,
    "swin_large": 194_995_476,
    "swin_small": 48_837_258,
    "swin_tiny": 27_519_354,
    "whisper_base": 72_593_920,
    "whisper_large_v2": 1_543_304_960,
    "whisper_large_v3": 1_543_490_560,
    "whisper_large_v3_turbo": 808_878_080,
    "whisper_medium": 763_857_920,
    "whisper_small": 241_734_912,
    "whisper_tiny": 37_760_640,
    "xlm_roberta_large": 559_890_432,
    "bloom_176b": 176_247_271_424,
    "bloom_1b1": 1_065_314_304,
    "bloom_1b7": 1_722_408_960,
    "bloom_3b": 3_002_557_440,
    "bloom_560m": 559_214_592,
    "deepseek_v2": 235_741_434_880,
    "gemma_3_4b_text": 3_880_263_168,
    "glm_4_5_air": 106_852_245_504,
    "glm_4_9b": 9_400_279_040,
    "gpt_neox_20b": 20_554_567_680,
    "granite_3_2b": 2_533_531_648,
    "granite_3_8b": 8_170_848_256,
    "llama_4_maverick_text": 400_711_848_960,
    "llama_4_scout_text": 107_769_861_120,
    "mistral_nemo_12b": 12_247_782_400,
    "mistral_small_3_24b": 23_572_403_200,
    "mixtral_8x22b": 140_620_634_112,
    "olmo_2_1b": 1_484_916_736,
    "olmo_2_32b": 32_234_279_936,
    "olmoe_1b_7b": 6_919_161_856,
    "phi_3_medium": 13_960_238_080,
    "qwen1_5_moe_a2_7b": 14_315_784_192,
    "qwen2_57b_a14b": 57_408_658_944,
    "smollm3_3b": 3_075_098_624,
    "stablelm_2_1_6b": 1_644_515_328,
    "starcoder2_15b": 15_957_889_024,
    "starcoder_15b": 15_517_456_384,
    "yi_34b": 34_388_917_248,
    "yi_6b": 6_061_035_520,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
    "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856,
    "flan_t5_large": 783_150_080,
    "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352,
}

# Small models with odd, unequal sizes, and every switch of their family thrown at least once.
BERT = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 20, "max_position_embeddings": 17,
}  # fmt: skip
T5 = {"vocab_size": 31, "d_model": 10, "d_kv": 3, "d_ff": 22, "num_layers": 2, "num_heads": 4}
GPT2 = {"vocab_size": 31, "n_positions": 17, "n_embd": 12, "n_layer": 3, "n_head": 4}
LLAMA = {
    "vocab_size": 31, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
VIT = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20}
RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
TINY: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT,
    "deberta-v2": BERT | RELATIVE,
    "t5": T5 | {"num_decoder_layers": 3},
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "vit": VIT,
    **{model_type: config for model_type, (_, config) in more.TINY.items()},
    **{model_type: config for model_type, (_, config) in decoders.TINY.items()},
}
CROSS = {"is_decoder": True, "add_cross_attention": True}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *TINY.items(),
    *decoders.VARIANTS,
    ("bert", BERT | CROSS | {"type_vocab_size": 5, "tie_word_embeddings": False}),
    ("roberta", BERT | CROSS | {"type_vocab_size": 1, "tie_word_embeddings": False}),
    ("deberta-v2", BERT),
    ("deberta-v2", BERT | RELATIVE | {"position_buckets": 5, "share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    ("deberta-v2", BERT | RELATIVE | {"max_relative_positions": 9, "pos_att_type": "P2C | c2p"}),
    ("deberta-v2", BERT | {"relative_attention": True, "pos_att_type": "c2p", "type_vocab_size": 2}),
    ("deberta-v2", BERT | {"embedding_size": 7, "position_biased_input": False, "attention_head_size": 3}),
    ("deberta-v2", BERT | {"conv_kernel_size": 3, "conv_groups": 2, "norm_rel_ebd": "none|layer_norm"}),
    ("t5", T5 | {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 8}),
    ("t5", T5 | {"feed_forward_proj": "gelu", "tie_word_embeddings": False, "num_decoder_layers": None}),
    ("gpt2", GPT2 | {"n_inner": 21, "add_cross_attention": True, "tie_word_embeddings": False}),
    ("gpt2", GPT2 | {"n_inner": None}),
    ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 10, "tie_word_embeddings": True}),
    ("llama", LLAMA | {"num_key_value_heads": None, "head_dim": None}),
    ("mistral", LLAMA | {"head_dim": 14, "tie_word_embeddings": True}),
    ("mistral", {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"num_attention_heads": 8}),
    ("qwen2", LLAMA | {"head_dim": 14, "tie_word_embeddings": True}),
    ("qwen2", LLAMA | {"num_key_value_heads": None}),
    ("vit", VIT | {"image_size": [48, 33], "patch_size": [12, 5], "num_channels": 2, "qkv_bias": False}),
    ("vit", VIT | {"image_size": 30, "patch_size": 7, "pooler_output_size": 9}),
    ("electra", BERT | CROSS | {"embedding_size": 12, "type_vocab_size": 5}),
    ("xlm-roberta", BERT | CROSS | {"type_vocab_size": 1, "tie_word_embeddings": False}),
    ("albert", BERT | {"num_hidden_layers": 5, "embedding_size": 12}),
    ("deberta", BERT | {"embedding_size": 7, "position_biased_input": False, "type_vocab_size": 3}),
    ("deberta", BERT | {"relative_attention": True, "pos_att_type": "c2p", "max_relative_positions": 9}),
    ("deberta", BERT | {"talking_head": True}),
    ("modernbert", TINY["modernbert"] | {
        "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True,
    }),
    *((family, TINY[family] | {"tie_word_embeddings": False}) for family in ("bart", "mbart", "pegasus", "whisper")),
    ("mt5", TINY["mt5"] | {"feed_forward_proj": "relu", "num_decoder_layers": None}),
    ("whisper", TINY["whisper"] | {"use_weighted_layer_sum": True}),
    ("clip", {"text_config": None, "vision_config": {"patch_size": 14, "num_channels": 1}}),
    ("dinov2", TINY["dinov2"] | {"use_swiglu_ffn": True, "mlp_ratio": 4}),
    ("dinov2", TINY["dinov2"] | {"use_mask_token": False, "image_size": [48, 33], "patch_size": [12, 5]}),
    ("dinov2", TINY["dinov2"] | {"qkv_bias": False}),
    ("swin", TINY["swin"] | {"use_absolute_embeddings": True, "image_size": [48, 33], "mlp_ratio": 3}),
    ("swin", TINY["swin"] | {"qkv_bias": False}),
    *[(family, TINY[family] | {"tie_word_embeddings": False}) for family in (
        "albert", "distilbert", "deberta", "deberta-v2", "modernbert")],
    ("modernbert", TINY["modernbert"] | {"decoder_bias": False}),
    *[(family, TINY[family] | {"legacy": False}) for family in ("deberta", "deberta-v2")],
]
KINDS: dict[str, tuple[type, ...]] = {
    "linear": (torch.nn.Linear,),
    "conv1d": (transformers.pytorch_utils.Conv1D,),
    "conv": (torch.nn.Conv1d, torch.nn.Conv2d),
    "embedding": (torch.nn.Embedding,),
}


def built(family: Family, task: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """What `from_pretrained` of `transformers` gives, on the meta device: shapes without memory."""
    labels = family.tasks[task].labels or LABELS
    made = transformers.AutoConfig.for_model(family.model_type, **config, num_labels=labels)
    with torch.device("meta"):
        model: torch.nn.Module = getattr(transformers, family.tasks[task].class_)(made)
        if config.get("tie_word_embeddings") is False and made.tie_word_embeddings:
            separate_output(model)
    return model


def separate_output(model: Any) -> None:
    """Give the output embedding a weight of its own, as in a checkpoint that has one."""
    if (head := model.get_output_embeddings()) is not None:
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight))


def labels(backbone: Backbone, task: str) -> int:
    """The number of labels to ask for: the class's own, if it takes no other."""
    found = backbone.family.tasks.get(task)
    return (found.labels if found else None) or LABELS


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def tiny(model_type: str, task: str | None = None, **changes: Any) -> Inventory:
    raw = TINY[model_type] | changes
    backbone = Backbone.from_config(raw | {"model_type": model_type}, families=FAMILIES)
    return backbone.inventory(task, LABELS if task is None else labels(backbone, task))


def check_modules(inventory: Inventory, model: torch.nn.Module) -> None:
    """Paths, kinds, features, biases and blocks are those of the live modules."""
    for module in inventory.modules:
        for _, path in module.paths():
            live: Any = model.get_submodule(path)
            assert issubclass(type(live), KINDS.get(module.kind, (torch.nn.Module,)))
            if module.kind != "parameter":
                assert module.bias == (getattr(live, "bias", None) is not None)
            if module.kind == "linear":
                assert (module.d_in, module.d_out) == (live.in_features, live.out_features)
    for block in inventory.blocks:
        if block.path:
            assert all(model.get_submodule(block.path.replace("{layer}", str(n))) for n in block.layers)
        else:
            assert {block.first, block.last} <= {m.role for m in inventory.modules if m.stack == block.stack}


def altered(model_type: str, change: Callable[[Any], None]) -> Family:
    data = copy.deepcopy(load_yaml(DATA / "families" / f"{model_type}.yaml").data)
    change(data)
    return Family.model_validate(data)


SUFFIXES: dict[str, list[list[str] | str]] = {
    "bert": [["query", "value"], ["dense"], ["output.dense"], ["1.attention.self.key"], ["intermediate.dense", "key"]],
    "roberta": [["query", "value"], ["dense"], ["attention.output.dense"], ["layer.2.output.dense"]],
    "deberta-v2": [["query_proj", "value_proj"], ["dense"], ["pos_key_proj"]],
    "t5": [["q", "v"], ["EncDecAttention.q"], ["wi", "wo"], ["layer.1.EncDecAttention.k", "0.SelfAttention.k"]],
    "gpt2": [["c_attn"], ["c_proj"], ["mlp.c_proj"], ["attn.c_proj", "1.mlp.c_fc"]],
    "llama": [["q_proj", "v_proj"], ["mlp.up_proj"], ["layers.1.self_attn.q_proj", "layers.1.mlp.up_proj"]],
    "mistral": [["q_proj", "o_proj"], ["self_attn.k_proj"]],
    "qwen2": [["q_proj", "k_proj"], ["down_proj"]],
    "vit": [["q_proj", "v_proj"], ["attention.o_proj"], ["fc1"]],
    "distilbert": [["q_lin", "v_lin"], ["ffn.lin1"], ["1.attention.k_lin"]],
    "electra": [["query", "value"], ["dense"], ["embeddings_project"]],
    "xlm-roberta": [["query", "value"], ["layer.2.output.dense"]],
    "albert": [["query", "value"], ["ffn"], ["attention.dense"], ["1.albert_layers.0.ffn_output"]],
    "deberta": [["in_proj"], ["dense"], ["pos_proj", "pos_q_proj"]],
    "modernbert": [["Wqkv"], ["attn.Wo", "Wi"]],
    "bart": [["q_proj", "v_proj"], ["encoder_attn.k_proj"], ["fc1", "out_proj"]],
    "mbart": [["q_proj", "v_proj"], ["decoder.layers.1.fc2"]],
    "pegasus": [["q_proj", "v_proj"], ["encoder_attn.out_proj"]],
    "mt5": [["q", "v"], ["wi_0", "wo"], ["EncDecAttention.k"]],
    "whisper": [["q_proj", "v_proj"], ["encoder.layers.1.self_attn.k_proj", "fc2"]],
    "clip": [["q_proj", "v_proj"], ["vision_model.encoder.layers.1.mlp.fc1", "k_proj"]],
    "dinov2": [["q_proj", "v_proj"], ["fc2"]],
    "swin": [["q_proj", "v_proj"], ["reduction"], ["layers.2.blocks.1.mlp.fc1", "blocks.0.attention.o_proj"]],
    **decoders.SUFFIXES,
}  # fmt: skip


def check_line(error: ConfigError, start: str) -> None:
    text = str(error)
    assert text.startswith(start)
    assert "\n" not in text
    assert len(text) < 400
    assert error.exit_code == 1
