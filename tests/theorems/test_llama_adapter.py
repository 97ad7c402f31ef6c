"""LLaMA-Adapter: a second softmax behind a gate, and the library's version of it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import llama_adapter

pytestmark = pytest.mark.torch


def prompts(model: nn.Module) -> list[llama_adapter.GatedPrompt]:
    return [child for child in kit.attached(model, "llama_adapter") if isinstance(child, llama_adapter.GatedPrompt)]


def opened(family: str, layers: int = 30) -> nn.Module:
    torch.manual_seed(0)
    model = llama_adapter.apply(tiny.model(family), prompt_length=4, layers=layers)
    for prompt in prompts(model):
        prompt.gate.data.normal_()
    return model


def test_only_the_upper_layers_have_prompts() -> None:
    model = opened("t5", layers=1)
    found = sorted(n for n, _ in model.named_parameters() if n.endswith(".llama_adapter.P"))
    assert [n.split(".layer.")[0] for n in found] == ["decoder.block.2", "encoder.block.1"]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_text_is_read_as_before_and_the_prompt_beside_it(family: str) -> None:
    """The first attention, before its output map, against a computation by hand from its own weights."""
    model, plain = opened(family), tiny.model(family)
    prompt = prompts(model)[0]
    blocks = [kit.blocks(m, "attention")[0] for m in (model, plain)]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in blocks:
        block.sites["attn.q"].module.register_forward_hook(lambda m, args, out: seen.append((args[0],)))
        block.sites["attn.o"].module.register_forward_pre_hook(lambda m, args: seen.append((args[0],)))
    with torch.no_grad():
        tiny.outputs(model, family)
        tiny.outputs(plain, family)
    (x,), (ours,), _, (theirs,) = seen
    q, k, v = (blocks[1].sites[f"attn.{role}"] for role in "qkv")
    heads, width = blocks[1].dims["n_heads"], blocks[1].dims["head_dim"]
    for h in range(heads):
        rows = slice(h * width, (h + 1) * width)
        query = x @ q.weight[rows].T + q.bias[rows]
        key, value = (prompt.P @ s.weight[rows].T + s.bias[rows] for s in (k, v))
        read = torch.softmax(query @ key.T / math.sqrt(width), dim=-1) @ value
        assert torch.allclose((ours - theirs)[..., rows], torch.tanh(prompt.gate[h]) * read)


def test_gates_open_first_and_prompts_follow() -> None:
    model = llama_adapter.apply(tiny.model("llama"), prompt_length=3)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    moved = []
    for _ in range(2):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
        moved.append([(bool(p.gate.grad.any()), bool(p.P.grad.any())) for p in prompts(model)])
    assert moved == [[(True, False)] * 2, [(True, True)] * 2]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")     # peft's use of transformers
def test_pefts_version_is_ours_with_equal_gates_and_no_tanh() -> None:
    """On a LLaMA as wide as its heads together: the library counts on it."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 37, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=6, num_key_value_heads=2, use_cache=False)
    plain = LlamaForCausalLM(config).double().eval()
    for parameter in plain.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    settings = peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")
    theirs: Any = peft.get_peft_model(copy.deepcopy(plain), settings)
    ours = llama_adapter.apply(copy.deepcopy(plain), prompt_length=4, layers=2)
    wrapped = [m for m in theirs.modules() if hasattr(m, "adaption_gate")]
    for gate, prompt, other in zip((0.3, -0.6), prompts(ours), wrapped, strict=True):
        other.adaption_gate.data = torch.tensor([gate], dtype=torch.float64)
        other.adaption_prompt.data = prompt.P.data[None].clone()
        prompt.gate.data.fill_(math.atanh(gate))
    with torch.no_grad():
        a, b, base = (tiny.outputs(m, "llama") for m in (ours, theirs, plain))
    assert torch.allclose(a, b, atol=tiny.TOLERANCE)
    assert (a - base).abs().max() > 0.1
    assert sum(p.numel() for p in theirs.parameters() if p.requires_grad) == 2 * (4 * 24 + 1)
