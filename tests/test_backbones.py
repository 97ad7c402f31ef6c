"""Backbones: what the family files say is what `transformers` builds, and roles and suffixes find what they mean."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from peftonomy.backbones.backbone import Backbone, Inventory, load_model
from peftonomy.backbones.modules import LINEAR
from peftonomy.errors import ConfigError, DataError, PeftonomyError, UnknownName, UsageError
from peftonomy.files.documents import load_yaml
from peftonomy.schema.family import Family, load_family, load_roles
from reference_impls import _kit as kit
from reference_impls import lora
from tests import families as more
from tests import families_decoders as decoders

pytestmark = pytest.mark.torch
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
}
# The same of checkpoints that hold their output embedding apart, which transformers 5 builds tied.
APART = {
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
]
KINDS: dict[str, tuple[type, ...]] = {
    "linear": (torch.nn.Linear,),
    "conv1d": (transformers.pytorch_utils.Conv1D,),
    "conv": (torch.nn.Conv1d, torch.nn.Conv2d),
    "embedding": (torch.nn.Embedding,),
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()


def built(family: Family, task: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """What `transformers` builds, on the meta device: shapes without memory."""
    made = transformers.AutoConfig.for_model(family.model_type, **config, num_labels=LABELS)
    with torch.device("meta"):
        model: torch.nn.Module = getattr(transformers, family.tasks[task].class_)(made)
    return model


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def tiny(model_type: str, task: str | None = None, **changes: Any) -> Inventory:
    raw = TINY[model_type] | changes
    return Backbone.from_config(raw | {"model_type": model_type}, families=FAMILIES).inventory(task, LABELS)


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


# What transformers builds.


@pytest.mark.parametrize(("model", "task"), [(m, t) for m, b in MODELS.items() for t in b.tasks])
def test_catalogued_models_equal_transformers(model: str, task: str) -> None:
    backbone = MODELS[model]
    assert backbone.file is not None
    inventory, live = backbone.inventory(task, LABELS), built(backbone.family, task, backbone.file.config)
    assert inventory.parameters() == shapes(live)
    assert inventory.total == sum(p.numel() for p in live.parameters())
    check_modules(inventory, live)


@pytest.mark.parametrize(("model_type", "config"), VARIANTS)
def test_every_switch_of_a_family_equals_transformers(model_type: str, config: dict[str, Any]) -> None:
    backbone = Backbone.from_config(config | {"model_type": model_type}, families=FAMILIES)
    for task in backbone.tasks:
        inventory, live = backbone.inventory(task, LABELS), built(backbone.family, task, config)
        assert inventory.parameters() == shapes(live)
        check_modules(inventory, live)


def altered(model_type: str, change: Callable[[Any], None]) -> Family:
    data = copy.deepcopy(load_yaml(DATA / "families" / f"{model_type}.yaml").data)
    change(data)
    return Family.model_validate(data)


def module_of(data: Any, role: str, stack: str = "") -> Any:
    modules = data["stacks"][stack]["modules"] if stack else data["modules"]
    return next(m for m in modules if m["role"] == role)


TWINS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "where": ("t5", lambda d: module_of(d, "attn.rel", "encoder").update(where="layer == 1")),
    "where dropped": ("t5", lambda d: module_of(d, "attn.rel", "decoder").pop("where")),
    "tie": ("gpt2", lambda d: module_of(d, "head.lm").pop("tied_to")),
    "tie turned round": ("llama", lambda d: module_of(d, "head.lm").update(tied_when="not tie_word_embeddings")),
    "gated": ("t5", lambda d: d["config"]["gated"].update(pattern="relu", default=True)),
    "transposed": ("gpt2", lambda d: module_of(d, "mlp.up", "decoder").update(kind="linear")),
    "bias": ("qwen2", lambda d: module_of(d, "attn.o", "decoder").update(bias=True)),
    "prefix": ("bert", lambda d: d["tasks"]["seq_cls"].update(prefix="")),
    "task": ("roberta", lambda d: module_of(d, "pooler").update(tasks=["none", "seq_cls"])),
    "kernel": ("vit", lambda d: module_of(d, "embed.patch").update(kernel=["patch_width"])),
    "name": ("deberta-v2", lambda d: module_of(d, "attn.q", "encoder").update(path="attention.self.query")),
    "layers that are listed": ("qwen3_next", lambda d: d["config"]["full"].update(default="layer == 0")),
    "layers with experts": ("deepseek_v3", lambda d: module_of(d, "moe.router", "decoder").pop("where")),
    "another name": ("gptj", lambda d: d["config"]["n_embd"].update(key="hidden_size", aliases=[], default=8)),
    "layers": ("t5", lambda d: d["stacks"]["decoder"].update(layers="num_layers")),
    "stack of a task": ("whisper", lambda d: d["stacks"]["decoder"].pop("tasks")),
    "width of a stack": ("clip", lambda d: d["stacks"]["encoder_vision"]["dims"].update(d_model="text_width")),
    "likeness": ("swin", lambda d: d["stacks"]["encoder_2"]["dims"].update(d_ff="embed_dim")),
    "key of an object": ("clip", lambda d: d["config"]["text_ffn"].update(key="vision_config.intermediate_size")),
    "half a tie": ("electra", lambda d: module_of(d, "head.lm").pop("ties")),
}


@pytest.mark.parametrize("twin", TWINS)
def test_a_family_that_is_wrong_somewhere_is_found_out(twin: str) -> None:
    model_type, change = TWINS[twin]
    family = altered(model_type, change)
    config = TINY[model_type]
    backbone = Backbone.from_config(config | {"model_type": model_type}, families={model_type: family})
    ours = {task: backbone.inventory(task, LABELS).parameters() for task in backbone.tasks}
    assert ours != {task: shapes(built(family, task, config)) for task in backbone.tasks}


@pytest.mark.parametrize("model", TOTALS)
def test_totals_are_the_published_ones(model: str) -> None:
    assert MODELS[model].parameters == TOTALS[model]


@pytest.mark.parametrize("model", APART)
def test_totals_with_the_output_embedding_apart(model: str) -> None:
    backbone = MODELS[model]
    assert backbone.parameters + backbone.dims["vocab"] * backbone.dims["d_model"] == APART[model]
    assert backbone.file is not None
    assert f"{backbone.dims['vocab'] * backbone.dims['d_model']:,} more numbers" in str(backbone.file.note)


def test_the_catalogue_is_wide_enough() -> None:
    assert set(FAMILIES) == {b.family.model_type for b in MODELS.values()} == set(TINY)
    assert len(MODELS) >= 100


def test_a_head_made_new_is_counted_apart() -> None:
    inventory = MODELS["roberta_base"].inventory("seq_cls", 5)
    assert inventory.head == 768 * 768 + 768 + 5 * 768 + 5
    assert inventory.total - inventory.head == TOTALS["roberta_base"] - (768 * 768 + 768)  # without the pooler
    assert MODELS["gpt2"].inventory("seq_cls", 5).head == 5 * 768
    assert MODELS["gpt2"].inventory().head == MODELS["t5_base"].inventory().head == 0
    assert all(not m.pretrained for m in inventory.modules if m.head)


def test_what_checkpoints_do_not_hold_is_marked() -> None:
    unheld = {b.family.model_type: m.path for b in MODELS.values() for m in b.inventory().modules if not m.pretrained}
    assert unheld == {"roberta": "pooler.dense", "xlm-roberta": "pooler.dense"}


# Families that no file describes.


def inferred(model_type: str, config: Mapping[str, Any]) -> Backbone:
    """The backbone as it is where the family of that type is not described."""
    others = {name: family for name, family in FAMILIES.items() if name != model_type}
    return Backbone.from_config({**config, "model_type": model_type}, families=others)


ITS_OWN_EXPERTS = {"mixtral"}
"""What peft knows of the names of experts beyond the table of transformers, so that only the family itself can say."""


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_hidden_family_is_inferred(model_type: str) -> None:
    """Names and shapes, blocks and modules by their names to the last; roles of linear maps are right or `other`."""
    known = Backbone.from_config(TINY[model_type] | {"model_type": model_type}, families=FAMILIES)
    found = inferred(model_type, TINY[model_type])
    assert (found.tasks, found.default_task, found.family.kind) == (known.tasks, known.default_task, known.family.kind)
    assert found.parameters == known.parameters
    for task in known.tasks:
        ours, theirs = found.inventory(task, LABELS), known.inventory(task, LABELS)
        assert ours.parameters() == theirs.parameters()
        if model_type != "modernbert":  # whose classifier keeps a part of the pretrained head
            assert ours.head == theirs.head
        assert (found.family.expert_names != known.family.expert_names) == (model_type in ITS_OWN_EXPERTS)
        for suffixes in [*SUFFIXES.get(model_type, []), "all-linear"] if model_type not in ITS_OWN_EXPERTS else []:
            assert targets(ours, suffixes) == targets(theirs, suffixes)
        roles, right = (
            {path: m.role for m in i.modules if m.kind in LINEAR for _, path in m.paths()} for i in (ours, theirs)
        )
        assert roles.keys() == right.keys()
        assert {(roles[path], role) for path, role in right.items() if roles[path] not in (role, "other")} == set()
        assert sum(role == "other" for role in roles.values()) <= len(right) / 3
        assert {r for r in roles.values() if "attn." in r} == {r for r in right.values() if "attn." in r}
        assert ours.dims["d_model"] == theirs.dims["d_model"]
        assert ours.dims["d_embed"] == theirs.dims["d_embed"]
        if model_type not in ("albert", "qwen3_next"):  # of the first, groups become stacks
            assert blocks(ours) == blocks(theirs)


def targets(inventory: Inventory, suffixes: list[str] | str) -> set[str]:
    """The modules that suffixes mean, or why they mean none."""
    try:
        return {path for site in inventory.resolve_suffixes(suffixes) for _, path in site.paths()}
    except UsageError as error:
        return {str(error)}


def blocks(inventory: Inventory) -> list[tuple[str, str, str, tuple[int, ...], int]]:
    return [(b.kind, b.name, b.path, b.layers, b.dims["n_heads"]) for b in inventory.blocks]


UNKNOWN: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 31, "hidden_size": 12, "state_size": 5, "num_hidden_layers": 3},
    "jamba": {
        "vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_experts": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "siglip": {
        "text_config": {
            "vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
            "num_attention_heads": 3, "max_position_embeddings": 17,
        },
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 22, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 20, "patch_size": 6,
        },
    },
    "convnext": {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 2, 2, 1]},
}  # fmt: skip


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_any_model_of_transformers_is_counted(model_type: str) -> None:
    backbone = inferred(model_type, UNKNOWN[model_type])
    assert set(load_roles(DATA.parent / "taxonomy" / "roles.yaml")) >= {m.role for m in backbone.inventory().modules}
    for task in backbone.tasks:
        inventory = backbone.inventory(task, LABELS)
        live = built(backbone.family, task, UNKNOWN[model_type])
        assert inventory.parameters() == shapes(live)
        check_modules(inventory, live)


def test_stacks_of_unknown_families_are_told_apart() -> None:
    towers = inferred("siglip", UNKNOWN["siglip"])
    assert towers.layers == {"encoder_1": 2, "encoder_2": 3}
    assert [b.dims["d_model"] for b in towers.inventory().blocks if b.kind == "layer"] == [12, 16]
    assert [b.dims["n_heads"] for b in towers.inventory().blocks if b.kind == "layer"] == [3, 4]
    hybrid = inferred("jamba", UNKNOWN["jamba"]).inventory()
    assert [s.layers for s in hybrid.resolve_roles(["attn.q"])] == [(1, 4)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "wide"}, "found 'mamba'; expected a config of which transformers builds a model, .*wide"),
        ({"num_hidden_layers": 10**6}, "found 'mamba'; .*more than 10,000 layers"),
    ],
)
def test_what_transformers_cannot_build_is_one_clear_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        inferred("mamba", config)
    check_line(caught.value, "config: ")


def test_without_torch_only_described_families_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"found 'mamba'; expected a family that .* with the torch extra") as caught:
        inferred("mamba", UNKNOWN["mamba"])
    check_line(caught.value, "config: ")


# Config files.


@pytest.mark.parametrize("model", MODELS)
def test_a_config_that_transformers_wrote_gives_the_same_model(model: str, tmp_path: Path) -> None:
    backbone = MODELS[model]
    assert backbone.file is not None
    config = transformers.AutoConfig.for_model(backbone.family.model_type, **backbone.file.config)
    config.to_json_file(tmp_path / "full.json", use_diff=False)
    config.to_json_file(tmp_path / "diff.json")
    config.save_pretrained(tmp_path)
    for source in ("full.json", "diff.json", "config.json", ""):  # the last is the folder
        again = Backbone.from_config(str(tmp_path / source), families=FAMILIES)
        assert again.inventory().parameters() == backbone.inventory().parameters()
        assert again.config == backbone.config
    assert Backbone.from_config(config.to_dict(), families=FAMILIES).config == backbone.config


def test_a_null_where_transformers_would_not_take_one() -> None:
    """Older versions read it as "as many as there are heads", whatever the default."""
    assert tiny("mistral", num_key_value_heads=None).dims["n_kv_heads"] == 4
    assert tiny("qwen2", num_key_value_heads=None).dims["n_kv_heads"] == 4


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """Only the sizes that make a model itself have no default; what is left out means what it means there."""
    family = FAMILIES[model_type]
    needed = {n: TINY[model_type][n] for n, key in family.config.items() if key.default is None}
    needed |= {n: v for n, v in TINY[model_type].items() if n.endswith("_token_id")}  # must be within the vocabulary
    needed |= {n: v for n, v in TINY[model_type].items() if n == "attention_types"}  # one for each layer
    sharing = family.config.get("num_key_value_heads")
    if sharing is not None and sharing.default is not None and sharing.default.literal is not None:
        heads = int(sharing.default.literal)  # more than a tiny model has
        needed |= {"num_attention_heads": heads, "hidden_size": 2 * heads}
    theirs = transformers.AutoConfig.for_model(model_type, **needed)
    ours = Backbone.from_config(needed | {"model_type": model_type}, families=FAMILIES)
    assert Backbone.from_config(theirs.to_dict(), families=FAMILIES).config == ours.config
    assert ours.inventory("none").parameters() == shapes(built(family, "none", needed))


def test_a_default_of_our_own_is_found_out() -> None:
    family = altered("bert", lambda d: d["config"]["type_vocab_size"].update(default=3))
    ours = Backbone.from_config(BERT | {"model_type": "bert"}, families={"bert": family})
    assert ours.inventory().parameters() != shapes(built(family, "none", BERT))


MISSING = object()
BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "missing key": ({"hidden_size": MISSING}, "hidden_size: found nothing; expected a whole number from 1"),
    "null": ({"vocab_size": None}, "vocab_size: found null; expected a whole number"),
    "no model_type": ({"model_type": MISSING}, "model_type: found nothing; expected a family that is described here"),
    "near model_type": ({"model_type": "lama"}, "found 'lama'; expected a family that .*; did you mean llama"),
    "far model_type": ({"model_type": "rumba"}, "found 'rumba'; expected a family that is described here or"),
    "model_type of a wrong type": ({"model_type": ["llama"]}, "model_type: found a list of 1"),
    "text": ({"hidden_size": "24"}, "hidden_size: found '24'; expected a whole number"),
    "float": ({"hidden_size": 24.0}, "hidden_size: found 24.0; expected a whole number"),
    "bool as int": ({"num_hidden_layers": True}, "num_hidden_layers: found true; expected a whole number"),
    "int as bool": ({"tie_word_embeddings": 1}, "tie_word_embeddings: found 1; expected true or false"),
    "list": ({"hidden_size": [24] * 900}, "hidden_size: found a list of 900; expected"),
    "nan": ({"intermediate_size": float("nan")}, "intermediate_size: found nan; expected"),
    "infinite": ({"intermediate_size": float("inf")}, "intermediate_size: found inf; expected"),
    "zero": ({"num_attention_heads": 0}, "num_attention_heads: found 0; expected a whole number from 1"),
    "negative": ({"hidden_size": -24}, "hidden_size: found -24; expected a whole number from 1"),
    "too wide": ({"hidden_size": 10**12}, "hidden_size: found 1000000000000; expected .* to 1,000,000,000"),
    "astronomical": ({"vocab_size": 10**5000}, "vocab_size: found a number beyond 2.*53; expected"),
    "too deep": ({"num_hidden_layers": 10_001}, "num_hidden_layers: found 10,001 layers; expected at most 10,000"),
    "too large": ({"hidden_size": 8 * 10**8, "num_hidden_layers": 9}, "sizes: found .* parameters; expected at most 2"),
    "heads do not divide": ({"hidden_size": 26}, "hidden_size and num_attention_heads: found .*= 26, .*= 4; expected"),
    "layers of their own": ({"per_layer_config": {"0": {"intermediate_size": 5}}}, "per_layer_config: found"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_clear_line(case: str) -> None:
    changes, message = BAD_CONFIGS[case]
    raw = {k: v for k, v in (LLAMA | {"model_type": "llama"} | changes).items() if v is not MISSING}
    with pytest.raises(ConfigError, match=message) as caught:
        Backbone.from_config(raw, families=FAMILIES, id="mine")
    check_line(caught.value, "mine: ")


def check_line(error: ConfigError, start: str) -> None:
    text = str(error)
    assert text.startswith(start)
    assert "\n" not in text
    assert len(text) < 400
    assert error.exit_code == 1


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [("t5", "feed_forward_proj", 3), ("deberta-v2", "pos_att_type", [1]), ("vit", "image_size", [224]),
     ("qwen2_moe", "mlp_only_layers", [1.0]), ("qwen2_moe", "mlp_only_layers", 1),
     ("qwen3_next", "layer_types", [1] * 5), ("qwen3_next", "layer_types", ["full_attention"])],
)  # fmt: skip
def test_a_flag_or_pair_of_a_wrong_type(model_type: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}: found") as caught:
        tiny(model_type, **{key: value})
    check_line(caught.value, "config: ")


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Expecting value on line 1, column 1; expected valid JSON"),
    "not JSON": (b"model_type: llama\n", "Expecting value on line 1, column 1; expected valid JSON"),
    "cut short": (b'{"model_type": "llama",\n "hidden_size": ', "line 2, column 17; expected valid JSON"),
    "not an object": (b"[1, 2]", "found a list; expected a JSON object"),
    "a number": (b"7", "found a int; expected a JSON object"),
    "not text": (b'{"a": "\xff"}', "expected valid JSON"),
    "NaN": (b'{"model_type": "llama", "hidden_size": NaN}', "found NaN, which JSON does not have; expected valid"),
    "twice": (b'{"hidden_size": 8, "hidden_size": 9}', "found the key hidden_size twice; expected valid JSON"),
    "digits": (b'{"hidden_size": ' + b"9" * 5000 + b"}", "expected valid JSON"),
    "deep": (b"[" * 200_000 + b"]" * 200_000, "found deep nesting; expected the few levels of a config.json"),
    "huge": (b'{"a": "' + b"x" * 1_000_000 + b'"}', "found more than 1,000,000 bytes; expected a config.json"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Backbone.from_config(path, families=FAMILIES)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["no/such.json", "/dev/zero", "tests", "x" * 5000, "a\0b"])
def test_a_path_that_is_no_config(path: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a config\.json"):
        Backbone.from_config(path, families=FAMILIES)


ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.integers(0, 40),
    st.lists(st.integers(-1, 99), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_no_config_ends_in_anything_but_a_model_or_our_error(data: st.DataObject) -> None:
    model_type = data.draw(st.sampled_from(sorted(FAMILIES)))
    keys = st.sampled_from([k.key or n for n, k in FAMILIES[model_type].config.items()])
    changes = data.draw(st.dictionaries(keys, ODD_VALUES, max_size=3))
    with contextlib.suppress(ConfigError):
        assert tiny(model_type, **changes).total > 0


# Roles.


def test_a_role_on_a_fused_module_is_its_slice() -> None:
    inventory = tiny("gpt2", "causal_lm")
    q, v = inventory.resolve_roles(["attn.q", "attn.v"])
    assert (q.role, q.start, q.stop, q.d_in, q.d_out) == ("attn.q", 0, 12, 12, 12)
    assert (v.role, v.start, v.stop, v.module) == ("attn.v", 24, 36, q.module)
    assert q.paths()[2] == (2, "transformer.h.2.attn.c_attn")
    assert (q.count, q.whole, q.bias) == (3, False, True)
    (whole,) = inventory.resolve_roles(["attn.qkv"])
    assert (whole.start, whole.stop, whole.whole) == (0, 36, True)


FUSED = [
    (model_type, config)
    for model_type, config in VARIANTS
    if FAMILIES[model_type].kind == "decoder" and not config.get("add_cross_attention")
    and any(spec.role == "attn.qkv" for _, spec in FAMILIES[model_type].specs())
]


class Seen(torch.nn.Module):
    """Adds one, and remembers to what."""

    def after(self, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        self.output = output[0]
        return output + 1


@pytest.mark.parametrize(("model_type", "config"), FUSED)
def test_slices_are_what_the_attention_takes_them_for(model_type: str, config: dict[str, Any]) -> None:
    """What is done to the slice `attn.v` of a fused module is done to all that the model keeps as its values."""
    family = FAMILIES[model_type]
    made = transformers.AutoConfig.for_model(model_type, **config)
    live = getattr(transformers, family.tasks["causal_lm"].class_)(made).eval()
    sites = kit.sites(live, ["attn.v"])
    for site in sites:
        kit.attach(site, "seen", Seen())
    inventory = kit.inventory(live)
    for layer, seen in zip(values(live), kit.attached(live, "seen"), strict=True):
        repeated = len(layer) // inventory.dims["n_kv_heads"]  # Falcon keeps them once for each query head
        assert torch.equal(layer[::repeated].transpose(0, 1).flatten(1), cast(Seen, seen).output + 1)
    (module,) = {group.module for group in inventory.resolve_roles(["attn.v"])}
    assert sum(stop - start for _, start, stop in module.slices) == module.d_out
    if module.groups > 1:
        with pytest.raises(UsageError, match=r"attn.v lie apart, head by head, in .*: no view shows them"):
            assert sites[0].weight


def values(live: Any) -> list[torch.Tensor]:
    """For each layer what the model keeps as values of one sequence, (heads, positions, features)."""
    return [layer.values[0] for layer in live(torch.arange(5)[None], use_cache=True).past_key_values.layers]


@pytest.mark.parametrize("model_type", decoders.TINY)
def test_the_kit_takes_hold_of_live_decoders(model_type: str) -> None:
    family, (class_name, config) = FAMILIES[model_type], decoders.TINY[model_type]
    live = built(family, "causal_lm", config)
    assert type(live).__name__ == class_name
    assert {w.name: tuple(w.value.shape) for w in kit.weights(live)} == shapes(live)
    parts = kit.inventory(live)
    for kind in ("attention", "mlp", "layer"):
        found = kit.blocks(live, kind)
        assert [b.layer for b in found] == [n for b in parts.blocks if b.kind == kind for n in b.layers]
        for block in found:
            with pytest.raises(UsageError, match="has no module of role no.such"):
                block.sites["no.such"]
    assert len(kit.sites(live, ["attn.q"])) == sum(group.count for group in parts.resolve_roles(["attn.q"]))


@pytest.mark.parametrize("model_type", ["deberta", "modernbert"])
@pytest.mark.parametrize(("role", "rows"), [("attn.q", 1), ("attn.k", 5), ("attn.v", 0)])
def test_slices_of_encoders_move_what_they_should(model_type: str, role: str, rows: int) -> None:
    """At one position, queries move that row of the attention, keys every row, and values none."""
    config = TINY[model_type] | {"hidden_size": 16}  # heads of even width, which rotate
    backbone = Backbone.from_config(config | {"model_type": model_type}, families=FAMILIES)
    (group,) = backbone.inventory("none").resolve_roles([role])
    made = transformers.AutoConfig.for_model(model_type, **config, attn_implementation="eager")
    torch.manual_seed(0)
    live: Any = getattr(transformers, backbone.family.tasks["none"].class_)(made).eval().double()

    def moved(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        heads = output.clone().unflatten(-1, (group.module.groups, -1))
        start, stop = (n // group.module.groups for n in (group.start, group.stop))
        heads[0, 2, :, start:stop] += torch.randn(group.module.groups, stop - start, dtype=torch.float64)
        return heads.flatten(-2)

    def attention() -> torch.Tensor:
        found: torch.Tensor = live(torch.arange(5)[None], output_attentions=True).attentions[0]
        return found

    before = attention()
    live.get_submodule(group.paths()[0][1]).register_forward_hook(moved)
    assert int((attention() - before).abs().amax(dim=(0, 1, 3)).gt(1e-9).sum()) == rows


def test_a_pattern_takes_a_fused_module_apart() -> None:
    inventory = tiny("gpt2", add_cross_attention=True)
    names = [site.role for site in inventory.resolve_roles(["attn.*"])]
    assert names == ["attn.q", "attn.k", "attn.v", "attn.o"]
    assert [s.role for s in inventory.resolve_roles(["attn.qkv", "attn.*", "attn.v"])] == ["attn.qkv", "attn.o"]
    assert [s.role for s in inventory.resolve_roles(["xattn.*"])] == ["xattn.q", "xattn.k", "xattn.v", "xattn.o"]


def test_a_role_within_a_stack() -> None:
    inventory = tiny("t5")
    assert {s.stack for s in inventory.resolve_roles(["attn.q"])} == {"encoder", "decoder"}
    (site,) = inventory.resolve_roles(["decoder:attn.q"])
    assert (site.stack, site.layers) == ("decoder", (0, 1, 2))
    assert site.paths()[0] == (0, "decoder.block.0.layer.0.SelfAttention.q")
    assert [s.role for s in inventory.resolve_roles(["decoder:xattn.*", "xattn.v"])] == [
        "xattn.q", "xattn.k", "xattn.v", "xattn.o",
    ]  # fmt: skip


def test_each_place_once_in_the_order_of_the_network() -> None:
    inventory = tiny("llama")
    sites = inventory.resolve_roles(["mlp.down", "attn.v", "attn.*", "attn.q"])
    assert [s.role for s in sites] == ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.down"]
    assert [(s.d_in, s.d_out) for s in sites] == [(24, 24), (24, 12), (24, 12), (24, 24), (34, 24)]


def test_other_kinds_can_be_asked_for() -> None:
    norms = tiny("bert").resolve_roles(["norm.*"], kinds=("norm",))
    assert [s.role for s in norms] == ["norm.embed", "norm.attn", "norm.mlp"]
    assert [s.count for s in norms] == [1, 3, 3]
    assert tiny("vit").roles() == ("pooler", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")


@pytest.mark.parametrize(
    ("model_type", "role", "error", "message"),
    [
        ("llama", "attn.qq", UnknownName, "unknown role 'attn.qq' in config .*did you mean attn.q"),
        ("llama", "xattn.q", UnknownName, "unknown role 'xattn.q'.*known: attn.k, attn.o"),
        ("llama", "xattn.*", UsageError, "no linear module of config .* has a role 'xattn.*they are head.lm, attn.q"),
        ("bert", "norm.attn", UsageError, "'norm.attn' of config .* of kind norm, not a linear .* those are pooler"),
        ("t5", "attn.rel", UsageError, "role 'attn.rel' of config .* is one of kind embedding"),
        ("t5", "encoder:xattn.q", UnknownName, "unknown role 'encoder:xattn.q'"),
        ("bert", "decoder:attn.q", UnknownName, "unknown stack 'decoder' in config .*known: encoder"),
        ("bert", "", UnknownName, "unknown role ''"),
    ],
)  # fmt: skip
def test_a_role_that_the_model_lacks(model_type: str, role: str, error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        tiny(model_type).resolve_roles([role])
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_every_role_is_explained_and_used() -> None:
    meanings = load_roles(DATA.parent / "taxonomy" / "roles.yaml")
    specs = [spec for family in FAMILIES.values() for _, spec in family.specs()]
    used = {spec.role for spec in specs} | {role for spec in specs for role in getattr(spec, "slices", ())}
    assert used | {"other"} == set(meanings)  # which only inferred families have


# Suffixes, against peft.

TASK_TYPES = {"none": "FEATURE_EXTRACTION", "causal_lm": "CAUSAL_LM", "seq_cls": "SEQ_CLS"}
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
PEFT_FAILS = ("distilbert", "seq_cls", "all-linear")
PEFT_CASES = [
    pytest.param(model_type, task, suffixes, id=f"{model_type}-{task}-{suffixes}")
    for model_type, family in FAMILIES.items()
    for task in family.tasks
    for suffixes in [*SUFFIXES.get(model_type, [["q_proj", "v_proj"]]), "all-linear"]
    if (model_type, task, suffixes) != PEFT_FAILS and (suffixes != "all-linear" or not family.expert_names)
]


def targeted_by_peft(model_type: str, task: str, suffixes: list[str] | str) -> set[str]:
    model = built(FAMILIES[model_type], task, TINY[model_type])
    generates = FAMILIES[model_type].kind == "encoder_decoder" and task == "causal_lm"
    task_type = "SEQ_2_SEQ_LM" if generates else TASK_TYPES[task]
    config = peft.LoraConfig(r=2, target_modules=suffixes, task_type=task_type, fan_in_fan_out=model_type == "gpt2")
    adapted: Any = peft.get_peft_model(model, config)
    return set(adapted.base_model.targeted_module_names)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "task", "suffixes"), PEFT_CASES)
def test_suffixes_mean_what_they_mean_in_peft(model_type: str, task: str, suffixes: list[str] | str) -> None:
    sites = tiny(model_type, task).resolve_suffixes(suffixes)
    assert {path for site in sites for _, path in site.paths()} == targeted_by_peft(model_type, task, suffixes)
    assert all(site.whole for site in sites)


EXPERTS = [model_type for model_type, family in FAMILIES.items() if family.expert_names]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", EXPERTS)
def test_names_by_which_peft_means_tensors_of_experts_are_refused(model_type: str) -> None:
    family = FAMILIES[model_type]
    for suffix in family.expert_names:
        for suffixes in ([suffix], ["o_proj", f"mlp.{suffix}"], "all-linear"):
            with pytest.raises(UsageError, match="means tensors of experts in peft, which are no linear modules"):
                tiny(model_type).resolve_suffixes(suffixes)
    config = peft.LoraConfig(target_modules=set(family.expert_names), task_type="CAUSAL_LM")
    peft.get_peft_model(built(family, "causal_lm", TINY[model_type]), config)
    assert config.target_modules == set()
    assert config.target_parameters == {"gate.weight", "gate_up_proj", "down_proj"}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_other_family_has_names_that_peft_takes_otherwise(model_type: str) -> None:
    from peft.utils import transformers_weight_conversion as theirs
    alike = theirs._MODEL_TO_CONVERSION_PATTERN
    renamed = theirs._MOE_TARGET_MODULE_MAPPING.get(alike.get(model_type, ""), {})
    assert set(FAMILIES[model_type].expert_names) == set(renamed)


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_peft_takes_for_a_target_and_for_a_head() -> None:
    """It trains in full whatever ends in `classifier`, `pre_classifier` too, which it also counts to all-linear."""
    with pytest.raises(TypeError, match="modules_to_save cannot be applied"):
        targeted_by_peft(*PEFT_FAILS)
    assert "pre_classifier" not in {s.module.path for s in tiny("distilbert", "seq_cls").resolve_suffixes("all-linear")}
    with pytest.raises(UsageError, match="'pre_classifier' of config .* belongs to the task's head"):
        tiny("distilbert", "seq_cls").resolve_suffixes(["pre_classifier"])


@pytest.mark.filterwarnings("ignore")
def test_suffixes_held_against_peft_can_differ() -> None:
    sites = tiny("bert", "seq_cls").resolve_roles(["attn.q", "attn.v", "head.cls"])
    ours = {path for site in sites for _, path in site.paths()}
    assert ours != targeted_by_peft("bert", "seq_cls", ["query", "value"])


@pytest.mark.parametrize(
    ("model_type", "task", "suffixes", "message"),
    [
        ("llama", "causal_lm", ["q_prj"], "unknown target module 'q_prj' .*did you mean q_proj"),
        ("llama", "causal_lm", ["q_proj", "query"], "unknown target module 'query'.*known: down_proj, gate_proj"),
        ("llama", "causal_lm", ["proj"], "unknown target module 'proj'"),
        ("llama", "causal_lm", ["self_attn"], "'self_attn' of config .* holds modules and is none"),
        ("llama", "causal_lm", ["layers.3.self_attn.q_proj"], "unknown target module"),
        ("llama", "causal_lm", ["norm"], "'norm' of config .* is of kind norm, not a linear module"),
        ("vit", "none", ["projection"], "'projection' of config .* is of kind conv, not a linear module"),
        ("llama", "seq_cls", ["score"], "'score' of config .* belongs to the task's head"),
        ("llama", "causal_lm", "q_proj", "found 'q_proj'; expected a list, or 'all-linear'"),
        ("llama", "causal_lm", [""], "unknown target module ''"),
    ],
)  # fmt: skip
def test_a_suffix_that_names_nothing(model_type: str, task: str, suffixes: list[str] | str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        tiny(model_type, task).resolve_suffixes(suffixes)
    assert "\n" not in str(caught.value)


# Sizes, blocks, tasks.


def test_sizes_of_the_model_and_of_its_blocks() -> None:
    inventory = tiny("t5")
    assert inventory.dims == {
        "d_model": 10, "d_embed": 10, "d_ff": 22, "n_heads": 4, "n_kv_heads": 4, "head_dim": 3, "d_attn": 12,
        "d_kv": 12, "vocab": 31, "max_positions": 0, "n_layers": 5,
        "n_encoder_layers": 2, "n_decoder_layers": 3, "n_attention": 8,
    }  # fmt: skip
    blocks = [(b.stack, b.kind, b.name, b.path, b.dims["n_layers"]) for b in inventory.blocks]
    assert blocks == [
        ("encoder", "attention", "attn", "encoder.block.{layer}.layer.0.SelfAttention", 2),
        ("encoder", "mlp", "mlp", "", 2),
        ("encoder", "layer", "layer", "encoder.block.{layer}", 2),
        ("decoder", "attention", "attn", "decoder.block.{layer}.layer.0.SelfAttention", 3),
        ("decoder", "attention", "xattn", "decoder.block.{layer}.layer.1.EncDecAttention", 3),
        ("decoder", "mlp", "mlp", "", 3),
        ("decoder", "layer", "layer", "decoder.block.{layer}", 3),
    ]
    assert tiny("llama").dims | {"d_attn": 24, "d_kv": 12, "n_kv_heads": 2} == tiny("llama").dims


@pytest.mark.parametrize("model_type", TINY)
def test_how_wide_vectors_of_tokens_are(model_type: str) -> None:
    """As wide as their table; where there is none, as wide as the layers."""
    inventory = tiny(model_type)
    widths = {m.d_out for m in inventory.modules if m.role == "embed.token"} or {inventory.dims["d_model"]}
    assert widths == {inventory.dims["d_embed"]}
    narrower = inventory.dims["d_embed"] < inventory.dims["d_model"]
    assert narrower == (model_type in ("electra", "albert", "opt"))


def test_cross_attention_is_a_block_only_where_it_exists() -> None:
    assert {b.name for b in tiny("gpt2").blocks} == {"attn", "mlp", "layer"}
    assert {b.name for b in tiny("gpt2", add_cross_attention=True).blocks} == {"attn", "xattn", "mlp", "layer"}


def test_the_task_of_a_live_model_is_known_by_its_class() -> None:
    live = built(FAMILIES["t5"], "seq_cls", T5)
    assert FAMILIES["t5"].task_of(type(live).__name__) == "seq_cls"
    with pytest.raises(UnknownName, match="unknown model class 'T5EncoderModel' of family t5"):
        FAMILIES["t5"].task_of("T5EncoderModel")


def test_tasks_and_labels_that_make_no_sense() -> None:
    with pytest.raises(UnknownName, match="unknown task 'causal_lm' for vit_base; known: none, seq_cls"):
        MODELS["vit_base"].inventory("causal_lm")
    for labels in (0, -1, 10**7, True, 2.5):
        with pytest.raises(UsageError, match=r"num_labels: found .*; expected a whole number from 1"):
            MODELS["bert_base"].inventory("seq_cls", labels)  # type: ignore[arg-type]


# Live models.


@pytest.mark.parametrize("model_type", more.TINY)
def test_the_kit_takes_hold_of_every_family(model_type: str) -> None:
    class_name, config = more.TINY[model_type]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**config))
    assert {w.name for w in kit.weights(model)} == {name for name, _ in model.named_parameters()}
    inventory = kit.inventory(model)
    for kind in ("attention", "mlp", "layer"):
        found = kit.blocks(model, kind)
        assert len(found) == sum(len(b.layers) for b in inventory.blocks if b.kind == kind)
        assert all(b.sites for b in found)
    lora.apply(model, r=2, alpha=4, targets=("attn.o", "mlp.up"))
    sizes = [site.count * 2 * (site.d_in + site.d_out) for site in inventory.resolve_roles(["attn.o", "mlp.up"])]
    assert sum(p.numel() for name, p in model.named_parameters() if ".lora." in name) == sum(sizes)


# Files of the catalogue.


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_problems_of_a_family_file_are_reported_at_their_lines(tmp_path: Path) -> None:
    text = (DATA / "families" / "gpt2.yaml").read_text(encoding="utf-8")
    for old, new in [
        ("model_type: gpt2", "model_type: gpt3"),
        ('default: "4 * n_embd"', 'default: "4 * n_emb"'),
        ('d_kv: "n_embd"', 'width: "n_embd"'),
        ("tied_to: wte", "tied_to: wte_token"),
        ('when: "add_cross_attention"', 'when: "add_cross_attn"'),
    ]:
        assert old in text
        text = text.replace(old, new)
    path = written(tmp_path, "gpt2.yaml", text)
    with pytest.raises(DataError) as caught:
        load_family(path, "families/gpt2.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 + 4
    for words in ("model_type: found gpt3", "n_inner.default: found 4 * n_emb", "dims: found no d_kv"):
        assert sum(words in line for line in lines) == 1
    assert all(line.startswith("families/gpt2.yaml:") for line in lines)
    assert sum("did you mean add_cross_attention?" in line for line in lines) == 4
    number = 1 + text[: text.index("tied_to: wte_token")].count("\n")
    assert any(line.startswith(f"families/gpt2.yaml:{number}: modules[3].tied_to") for line in lines)


def test_unknown_fields_and_kinds_of_a_family_file(tmp_path: Path) -> None:
    text = (DATA / "families" / "vit.yaml").read_text(encoding="utf-8")
    text = text.replace("kind: conv,", "kind: conv3d,").replace("default_task:", "colour: red\ndefault_task:")
    with pytest.raises(DataError) as caught:
        load_family(written(tmp_path, "vit.yaml", text))
    assert len(caught.value.problems) == 2
    assert {p.line for p in caught.value.problems} == {
        1 + text[: text.index(word)].count("\n") for word in ("colour: red", "kind: conv3d")
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("family: bert", "family: bret", 3, "family: found 'bret'; expected a family that .*did you mean bert"),
        ("family: bert", "family: mamba", 3, "family: found 'mamba'; expected a family that is described here"),
        ("hidden_size: 768", "hidden_size: 770", 7, "found hidden_size = 770, num_attention_heads = 12; expected"),
        ("vocab_size: 30522", "vocab_size: many", 8, "config.vocab_size: found 'many'; expected a whole number"),
        ("id: bert_base", "id: bert", 1, "id: found bert; expected the file's stem, bert_base"),
        ("checked: config", "checked: maybe", 6, "checked: found 'maybe'"),
    ],
)
def test_problems_of_a_model_file_have_their_line(old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    text = (DATA / "models" / "bert_base.yaml").read_text(encoding="utf-8")
    assert old in text
    path = written(tmp_path, "bert_base.yaml", text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        load_model(path, families=FAMILIES, name="bert_base.yaml")
    assert str(caught.value).startswith(f"bert_base.yaml:{line}: ")


def test_roles_are_explained_in_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"roles\.yaml:2: attn\.k: found 'keys'; expected a sentence"):
        load_roles(written(tmp_path, "roles.yaml", "attn.q: Makes queries.\nattn.k: keys\n"), "roles.yaml")


# Lightness.


def test_no_torch_is_imported() -> None:
    code = "import peftonomy.backbones.backbone, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_errors_are_of_our_own_kinds() -> None:
    assert issubclass(ConfigError, PeftonomyError)
    assert issubclass(UnknownName, UsageError)
