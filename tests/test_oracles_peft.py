"""peft as oracle for methods that act on weights: the same trained counts, and the same outputs with the same weights.

Where peft differs, the difference is a deviation of the entry, and a test here shows that it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.optimizers import create_lorafa_optimizer
from torch import nn

from peftonomy import Backbone
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adalora, ia3, lora, lora_fa
from tests.families import OTHERS
from tests.knowledge import KB

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),      # peft asks transformers by the old name
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),         # and corrects itself on GPT-2's Conv1D
]
QUERIES_AND_VALUES = {
    "bert": ["query", "value"], "roberta": ["query", "value"], "t5": ["q", "v"], "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"], "vit": ["q_proj", "v_proj"], "deberta-v2": ["query_proj", "value_proj"],
    "mistral": ["q_proj", "v_proj"], "qwen2": ["q_proj", "v_proj"], "t5 without gates": ["q", "v"],
}  # fmt: skip


def on_meta(family: str) -> nn.Module:
    """A model of the family without numbers: enough to count."""
    kind, settings = {**tiny.CONFIGS, **OTHERS}[family]
    model_class = getattr(transformers, kind)
    with torch.device("meta"):
        model: nn.Module = model_class(model_class.config_class(**settings))
    return model


def asked(model: nn.Module) -> tuple[Backbone, dict[str, Any]]:
    parts = kit.inventory(model)
    return parts.backbone, {"task": parts.task, "num_labels": parts.num_labels}


def trained(model: nn.Module) -> int:
    """What requires a gradient, but for AdaLoRA's rank counters, which peft thaws when it casts or moves them."""
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "ranknum" not in name)


def wrapped(model: nn.Module, config: Any) -> Any:
    """peft's model around ours, in float64."""
    found: Any = peft.get_peft_model(model, config)
    return found.double().eval()


def inner(theirs: Any, site: kit.Site) -> Any:
    """peft's layer where our site is."""
    return theirs.base_model.model.get_submodule(site.path)


def agree(family: str, ours: nn.Module, theirs: Any) -> None:
    with torch.no_grad():
        difference = tiny.outputs(ours, family) - tiny.outputs(theirs.base_model.model, family)
        moved = tiny.outputs(ours, family) - tiny.outputs(tiny.model(family), family)
    assert difference.abs().max() < tiny.TOLERANCE
    assert moved.abs().max() > 0.05, "the comparison would not notice a correction that does nothing"


# Counts, by peft's own choice of modules.


@pytest.mark.parametrize("family", QUERIES_AND_VALUES)
@pytest.mark.parametrize("chosen", ["queries and values", "all-linear"])
def test_lora_counts(family: str, chosen: str) -> None:
    modules: Any = chosen if chosen == "all-linear" else QUERIES_AND_VALUES[family]
    model = on_meta(family)
    backbone, question = asked(model)
    cost = KB["lora"].cost(backbone, target_modules=modules, r=3, **question)
    classifies = question["task"] in ("seq_cls", "image_cls")
    head = ["classifier"] if classifies else None       # what its SEQ_CLS task leaves out by itself
    config = peft.LoraConfig(r=3, target_modules=modules, exclude_modules=head)
    assert cost.trained == trained(peft.get_peft_model(model, config))


@pytest.mark.parametrize("family", [f for f in QUERIES_AND_VALUES if f != "gpt2"])
def test_adalora_counts(family: str) -> None:
    """peft's AdaLoRA has no layer for the Conv1D of GPT-2."""
    modules = QUERIES_AND_VALUES[family]
    model = on_meta(family)
    backbone, question = asked(model)
    cost = KB["adalora"].cost(backbone, target_modules=modules, init_r=4, target_r=2, **question)
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=modules)
    assert cost.trained == trained(peft.get_peft_model(model, config))


@pytest.mark.parametrize("family", ["t5", "t5 without gates", "llama", "mistral"])
def test_ia3_counts_by_default(family: str) -> None:
    """Where peft's own choice of modules is the paper's, the defaults of both agree."""
    model = on_meta(family)
    backbone, question = asked(model)
    theirs = peft.get_peft_model(model, peft.IA3Config())
    assert KB["ia3"].cost(backbone, **question).trained == trained(theirs)


def test_ia3_scales_queries_instead_of_keys_on_qwen2() -> None:
    """Deviation: peft's default modules for qwen2."""
    model = on_meta("qwen2")
    backbone, question = asked(model)
    theirs = peft.get_peft_model(model, peft.IA3Config())
    assert KB["ia3"].cost(backbone, targets=["attn.q", "attn.v", "mlp.down"], **question).trained == trained(theirs)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_ia3_trains_one_vector_more_in_encoders(family: str) -> None:
    """Deviation: the suffix `output.dense` of peft's default also matches the attention's output projection."""
    model = on_meta(family)
    backbone, question = asked(model)
    cost, width = KB["ia3"].cost(backbone, **question), backbone.dims["d_model"]
    theirs = peft.get_peft_model(model, peft.IA3Config())
    assert trained(theirs) - cost.trained == backbone.layers["encoder"] * width


def test_ia3_scales_the_whole_fused_projection() -> None:
    """Deviation: on GPT-2 peft's default scales queries too; our role for that is attn.qkv."""
    model = on_meta("gpt2")
    backbone, question = asked(model)
    theirs = trained(peft.get_peft_model(model, peft.IA3Config()))
    assert KB["ia3"].cost(backbone, targets=["attn.qkv", "mlp.down"], **question).trained == theirs
    queries = backbone.layers["decoder"] * backbone.dims["d_model"]
    assert KB["ia3"].cost(backbone, **question).trained == theirs - queries


# Outputs, on modules named one by one.


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("targets", [("attn.qkv", "attn.q", "attn.v", "xattn.v"), ("attn.o", "xattn.k", "mlp.*")])
def test_lora_outputs(family: str, targets: tuple[str, ...]) -> None:
    ours = lora.apply(tiny.model(family), r=3, alpha=5.0, targets=targets)
    shake(ours)
    children = list(kit.at_sites(ours, "lora", lora.LoRA))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=[site.path for site, _ in children])
    theirs = wrapped(tiny.model(family), config)
    assert trained(ours) == trained(theirs)
    for site, child in children:
        inner(theirs, site).lora_A["default"].weight.data.copy_(child.A)
        inner(theirs, site).lora_B["default"].weight.data.copy_(child.B)
    agree(family, ours, theirs)
    agree(family, lora.merge(ours), theirs)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_ia3_outputs(family: str) -> None:
    ours = ia3.apply(tiny.model(family), targets=("attn.qkv", "attn.k", "attn.v", "xattn.k", "xattn.v", "mlp.down"))
    shake(ours)
    outer = list(kit.at_sites(ours, "ia3", ia3.ScaleOutput))
    within = list(kit.at_sites(ours, "ia3", ia3.ScaleInput))
    down = [site.path for site, _ in within]
    theirs = wrapped(
        tiny.model(family),
        peft.IA3Config(target_modules=[site.path for site, _ in outer] + down, feedforward_modules=down),
    )
    assert trained(ours) == trained(theirs)
    for site, child in within:
        inner(theirs, site).ia3_l["default"].data.view(-1).copy_(child.l_ff)
    for site, scale in outer:
        inner(theirs, site).ia3_l["default"].data.view(-1).copy_(scale.l_out)
    agree(family, ours, theirs)


def test_adalora_importance() -> None:
    """The same scores as peft's allocator after three steps, so that the same triplets survive."""
    ours = adalora.apply(tiny.model("llama"), init_r=4, target_r=2, alpha=5.0, targets=("attn.q", "attn.v"))
    shake(ours)
    children = list(kit.at_sites(ours, "adalora", adalora.Triplets))
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, lora_alpha=5, target_modules=["q_proj", "v_proj"])
    theirs = wrapped(tiny.model("llama"), config)
    allocator = theirs.base_model.rankallocator
    for site, child in children:
        layer = inner(theirs, site)
        layer.lora_A["default"].data.copy_(child.Q)
        layer.lora_B["default"].data.copy_(child.P)
        layer.lora_E["default"].data.copy_(child.Lambda[:, None])
    for _ in range(3):
        for model in (ours, theirs.base_model.model):
            model.zero_grad()
            tiny.loss(model, "llama").backward()
        allocator.update_ipt(theirs.base_model.model)
        masks = adalora.allocate(ours, budget=4 * len(children))        # all of them: only look
    kept = 7
    masks = adalora.allocate(ours, budget=kept, beta1=1.0, beta2=1.0)   # no further look
    found = allocator.mask_to_budget(theirs.base_model.model, kept)
    for (site, _), mask in zip(children, masks, strict=True):
        [survivors] = [flags for name, flags in found.items() if name.split(".lora_E")[0].endswith(site.path)]
        assert mask.tolist() == survivors


def test_lora_fa_counts_and_outputs() -> None:
    """peft's LoRA-FA is an optimiser over LoRA: it freezes A and leaves the module as it is."""
    ours = lora_fa.apply(tiny.model("llama"), r=3, alpha=5.0)
    shake(ours)
    children = list(kit.at_sites(ours, "lora_fa", lora_fa.LoRAFA))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=[site.path for site, _ in children])
    theirs = wrapped(tiny.model("llama"), config)
    create_lorafa_optimizer(theirs, r=3, lora_alpha=5, lr=1e-3)
    assert trained(ours) == trained(theirs)
    for site, child in children:
        inner(theirs, site).lora_A["default"].weight.data.copy_(child.A)
        inner(theirs, site).lora_B["default"].weight.data.copy_(child.B)
    agree("llama", ours, theirs)


def test_lora_fa_corrects_the_gradient_in_peft_only() -> None:
    """Deviation: one plain step of peft's optimiser is not a gradient step on B."""
    model: Any = wrapped(tiny.model("llama"), peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"]))
    optimiser: Any = create_lorafa_optimizer(model, r=3, lora_alpha=5, lr=1e-2)
    tiny.loss(model.base_model.model, "llama").backward()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    a, raw = layer.lora_A["default"].weight, layer.lora_B["default"].weight.grad.clone()
    before = layer.lora_B["default"].weight.detach().clone()
    optimiser.step()
    step = layer.lora_B["default"].weight.detach() - before
    corrected = raw @ torch.linalg.inv(a @ a.T)
    assert torch.equal(step.sign(), -corrected.sign())
    assert not torch.equal(step.sign(), -raw.sign())


# The published runs: the same counts from peft here, from the run's record (the claims), and from the entry.

QV = ["q_proj", "v_proj"]
RUNS: dict[str, tuple[str, Callable[[], Any]]] = {
    "lora--llama-3.2-3B-rank32": ("lora", lambda: peft.LoraConfig(r=32, target_modules=QV)),
    "lora--llama-3.2-3B-rank10-target-mlp": (
        "lora", lambda: peft.LoraConfig(r=10, target_modules=["up_proj", "gate_proj", "down_proj"])),
    "ia3--llama-3.2-3B-default": ("ia3", peft.IA3Config),
    "adalora--llama-3.2-3B-rank32": (
        "adalora", lambda: peft.AdaLoraConfig(init_r=64, target_r=32, total_step=9, target_modules=QV)),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_published_runs(run: str) -> None:
    method, config = RUNS[run]
    [claim] = [c for c in KB[method].entry.claims if c.source == f"hf_peft_metamathqa#{run}"]
    setting: dict[str, Any] = dict(claim.set)
    cost = KB[method].cost(claim.model, targets=claim.targets, **setting)
    settings = dict(KB.models[claim.model].file.config)  # type: ignore[union-attr]
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
        assert trained(peft.get_peft_model(model, config())) == cost.trained == int(claim.reported.replace(",", ""))
