"""MixLoRA: the output is the weighted sum of whole feed-forward blocks, one for each chosen expert."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import mixlora

pytestmark = pytest.mark.torch

BLOCKS = {
    "llama": ("model.layers.1.mlp", ("gate_proj", "up_proj", "down_proj")),
    "phi3": ("model.layers.1.mlp", ("gate_up_proj", "down_proj")),
    "gpt2": ("transformer.h.1.mlp", ("c_fc", "c_proj")),
}  # fmt: skip
FUSED = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


def _plain(family: str) -> nn.Module:
    return tiny.built("Phi3ForCausalLM", FUSED) if family == "phi3" else tiny.model(family)


def _mixed(family: str, *, experts: int, top_k: int) -> nn.Module:
    tiny.seed(0)
    model = mixlora.apply(_plain(family), r=2, alpha=3.0, experts=experts, top_k=top_k, dropout=0.0)
    shake(model)
    return model


def _expert(family: str, model: nn.Module, number: int) -> nn.Module:
    """The feed-forward block of the plain model with the corrections of one expert in its weights."""
    path, names = BLOCKS[family]
    block = _plain(family).get_submodule(path)
    for name in names:
        child = model.get_submodule(f"{path}.{name}.mixlora.weight")
        assert isinstance(child, mixlora.Experts)
        weight = block.get_submodule(name).get_parameter("weight")
        change = child.scale * child.B_e[number] @ child.A_e[number]
        weight.add_(change.T if family == "gpt2" else change)
    return block


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("family", list(BLOCKS))
@torch.no_grad()
def test_output_is_the_weighted_sum_of_the_chosen_experts_blocks(family: str, top_k: int) -> None:
    model = _mixed(family, experts=4, top_k=top_k)
    router = [child for child in kit.attached(model, "mixlora") if isinstance(child, mixlora.Router)][1]
    block = model.get_submodule(BLOCKS[family][0])
    x = torch.randn(3, 7, router.G.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = torch.softmax(x @ router.G.T, dim=-1)
    best, which = omega.topk(top_k)
    every = torch.stack([_expert(family, model, number)(x) for number in range(4)], dim=-1)         # (3, 7, d, experts)
    wanted = sum(
        best[..., i, None] * every.gather(-1, which[..., None, i, None].expand(*every.shape[:-1], 1))[..., 0]
        for i in range(top_k)
    ) / best.sum(-1, keepdim=True)
    assert torch.allclose(block(x), wanted)
    assert router.chosen is None, "the choice is forgotten"
    used = torch.zeros_like(omega).scatter(-1, which, 1.0)
    assert router.imbalance(x) == pytest.approx(4 * float((used.mean((0, 1)) * omega.mean((0, 1))).sum()))


@pytest.mark.parametrize("family", list(BLOCKS))
def test_layers_that_run_again_as_checkpoints_give_the_same_gradients(family: str) -> None:
    found: list[list[Tensor]] = []
    for checkpointing in (False, True):
        model = _mixed(family, experts=3, top_k=2).train()
        if checkpointing:
            model.activation_checkpointing_enable()                 # type: ignore[operator]
            model.enable_input_require_grads()                      # type: ignore[operator]
        for _ in range(2):                      # the second pass must not see the first one's choice
            model(input_ids=torch.arange(14).reshape(2, 7)).logits.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad and p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))
