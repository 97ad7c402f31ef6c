"""Backbones: family files declare what `transformers` builds, and its sizes, blocks and tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from peftonomy.backbones.backbone import Backbone
from peftonomy.errors import ConfigError, PeftonomyError, UnknownName, UsageError
from reference_impls import _kit as kit
from reference_impls import lora
from tests import families as more

from .backbones_kit import (
    FAMILIES,
    MODELS,
    T5,
    TINY,
    TOTALS,
    VARIANTS,
    altered,
    built,
    check_modules,
    labels,
    separate_output,
    shapes,
    tiny,
)
from .grid import drawn

pytestmark = pytest.mark.torch


# What transformers builds.


CASES = [(m, t) for m, b in MODELS.items() for t in dict.fromkeys([b.default_task, *drawn(m, b.tasks, 1)])]


@pytest.mark.parametrize(("model", "task"), CASES)
def test_catalogued_models_equal_transformers(model: str, task: str) -> None:
    """With the default task and one other; `make grid` takes all. The switches below take all tasks of a family."""
    backbone = MODELS[model]
    assert backbone.file is not None
    inventory = backbone.inventory(task, labels(backbone, task))
    live = built(backbone.family, task, backbone.file.config)
    assert inventory.parameters() == shapes(live)
    assert inventory.total == sum(p.numel() for p in live.parameters())
    check_modules(inventory, live)


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
@pytest.mark.parametrize("separate", [True, False])
def test_a_loaded_checkpoint_keeps_its_output_embedding(model_type: str, separate: bool, tmp_path: Path) -> None:
    """transformers 5 builds it tied whatever the config says, and `from_pretrained` follows the checkpoint."""
    config = TINY[model_type] | {"tie_word_embeddings": not separate}
    family = FAMILIES[model_type]
    class_ = getattr(transformers, family.tasks["causal_lm"].class_)
    model = class_(transformers.AutoConfig.for_model(model_type, **config))
    assert model.lm_head.weight is model.shared.weight
    if separate:
        separate_output(model)
    model.save_pretrained(tmp_path)
    loaded = class_.from_pretrained(tmp_path)
    backbone = Backbone.from_config(config | {"model_type": model_type}, families=FAMILIES)
    assert backbone.inventory("causal_lm").parameters() == shapes(loaded)


@pytest.mark.parametrize(("model_type", "config"), VARIANTS)
def test_every_switch_of_a_family_equals_transformers(model_type: str, config: dict[str, Any]) -> None:
    backbone = Backbone.from_config(config | {"model_type": model_type}, families=FAMILIES)
    for task in backbone.tasks:
        inventory, live = backbone.inventory(task, labels(backbone, task)), built(backbone.family, task, config)
        assert inventory.parameters() == shapes(live)
        check_modules(inventory, live)

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
    ours = {task: backbone.inventory(task, labels(backbone, task)).parameters() for task in backbone.tasks}
    assert ours != {task: shapes(built(family, task, config)) for task in backbone.tasks}


@pytest.mark.parametrize("model", TOTALS)
def test_totals_are_the_published_ones(model: str) -> None:
    assert MODELS[model].parameters == TOTALS[model]


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



# Sizes, blocks, tasks.


def test_sizes_of_the_model_and_of_its_blocks() -> None:
    inventory = tiny("t5")
    assert inventory.dims == {
        "d_model": 10, "d_embed": 10, "d_ff": 22, "n_heads": 4, "n_kv_heads": 4, "head_dim": 3, "d_attn": 12,
        "d_kv": 12, "vocab": 31, "max_positions": 0, "n_layers": 5,
        "n_encoder_layers": 2, "n_decoder_layers": 3, "n_attention": 8, "n_encoders": 1, "n_inputs": 1,
        "n_labels": 0,
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
    with pytest.raises(UnknownName, match="unknown task 'causal_lm' for vit_base; known: image_cls, none"):
        MODELS["vit_base"].inventory("causal_lm")
    for number in (0, -1, 10**7, True, 2.5):
        with pytest.raises(UsageError, match=r"num_labels: found .*; expected a whole number from 1"):
            MODELS["bert_base"].inventory("seq_cls", number)  # type: ignore[arg-type]


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



# Lightness.


def test_no_torch_is_imported() -> None:
    code = "import peftonomy.backbones.backbone, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_errors_are_of_our_own_kinds() -> None:
    assert issubclass(ConfigError, PeftonomyError)
    assert issubclass(UnknownName, UsageError)
