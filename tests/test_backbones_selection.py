"""Roles and suffixes select the modules that they mean, on live models and in peft."""

from __future__ import annotations

from typing import Any, cast

import peft
import pytest
import torch
import transformers

from peftonomy.backbones.backbone import Backbone
from peftonomy.errors import UnknownName, UsageError
from peftonomy.schema.family import load_roles
from reference_impls import _kit as kit
from tests import families_decoders as decoders

from .backbones_kit import (
    DATA,
    FAMILIES,
    SUFFIXES,
    TINY,
    VARIANTS,
    built,
    shapes,
    tiny,
)
from .grid import drawn

pytestmark = pytest.mark.torch


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


class Seen(kit.Child):
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

TASK_TYPES = {
    "none": "FEATURE_EXTRACTION", "causal_lm": "CAUSAL_LM", "seq_cls": "SEQ_CLS", "masked_lm": None,
    "token_cls": "TOKEN_CLS", "question_ans": "QUESTION_ANS", "multiple_choice": "SEQ_CLS", "image_cls": "SEQ_CLS",
    "audio_cls": "SEQ_CLS", "zero_shot_image_cls": "FEATURE_EXTRACTION",
}  # fmt: skip
PEFT_FAILS = ("distilbert", "seq_cls", "all-linear")
FAILS = (PEFT_FAILS, ("distilbert", "multiple_choice", "all-linear"))
TARGETS_THE_HEAD = ("token_cls", "question_ans")
"""Tasks for which peft counts the head to all-linear, and then cannot train it in full."""
PEFT_CASES = [
    pytest.param(model_type, task, suffixes, id=f"{model_type}-{task}-{suffixes}")
    for model_type, family in FAMILIES.items()
    for task in dict.fromkeys([family.default_task, *drawn(model_type, family.tasks, 2)])
    for suffixes in [*SUFFIXES.get(model_type, [["q_proj", "v_proj"]]), "all-linear"]
    if not (task == "token_cls" and "EncDec" in str(suffixes))      # which has the encoder only
    and (model_type, task, suffixes) not in FAILS and (suffixes != "all-linear" or not family.expert_names)
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
    assert all(site.whole for site in sites)
    if suffixes == "all-linear" and task in TARGETS_THE_HEAD and (model_type, task) != ("modernbert", "question_ans"):
        with pytest.raises(TypeError, match="modules_to_save cannot be applied"):
            targeted_by_peft(model_type, task, suffixes)
    else:
        assert {path for site in sites for _, path in site.paths()} == targeted_by_peft(model_type, task, suffixes)


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
