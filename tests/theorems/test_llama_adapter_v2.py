"""LLaMA-Adapter V2: the scale multiplies the bias, every norm is trained, and prompts pass the frozen weights alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import llama_adapter, llama_adapter_v2

pytestmark = pytest.mark.torch


def _tuned(model: nn.Module) -> list[tuple[kit.Site, llama_adapter_v2.Tuned]]:
    return list(kit.at_sites(model, "llama_adapter_v2", llama_adapter_v2.Tuned))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@torch.no_grad()
def test_with_closed_gates_it_is_a_model_with_other_weights_and_biases(family: str) -> None:
    """Rows of the weight and the sum of both biases are multiplied by the scale. LLaMA gets a bias for it."""
    model = llama_adapter_v2.apply(tiny.model(family), prompt_length=2)
    shake(model)
    for child in kit.attached(model, "llama_adapter_v2.prompt"):
        child.get_parameter("gate").zero_()
    folded = tiny.model(family)
    for name, value in folded.named_parameters():
        value.copy_(model.get_parameter(name))                      # norms are trained
    sites = {(site.path, site.role): site for site in kit.sites(folded, ("attn.*", "mlp.*"))}
    for site, child in _tuned(model):
        other = sites.pop((site.path, site.role))
        if other.module.bias is None:
            other.module.bias = nn.Parameter(torch.zeros(site.d_out, dtype=torch.float64))
        bias = other.bias
        assert bias is not None
        other.weight.mul_(child.s[:, None])
        bias.add_(child.b).mul_(child.s)
    assert not sites
    found, wanted = tiny.outputs(model, family), tiny.outputs(folded, family)
    assert torch.allclose(found, wanted, atol=tiny.TOLERANCE)
    assert not torch.allclose(found, tiny.outputs(tiny.plain(family), family), atol=1e-2)


def test_every_norm_is_trained_and_no_other_weight_of_the_model() -> None:
    model = llama_adapter_v2.apply(tiny.model("llama"))
    trained = {weight.role for weight in kit.weights(model) if weight.value.requires_grad}
    assert trained == {"norm.attn", "norm.mlp", "norm.final"}
    assert all(not weight.value.requires_grad for weight in kit.weights(model) if weight.kind != "norm")


@torch.no_grad()
def test_prompts_read_the_frozen_weights_alone() -> None:
    """A prompt's keys and values do not change with the biases and scales of the layers that make them."""
    model = llama_adapter_v2.apply(tiny.model("llama"), prompt_length=3, layers=1)
    [prompt] = kit.attached(model, "llama_adapter_v2.prompt")
    assert isinstance(prompt, llama_adapter.GatedPrompt)

    def made() -> tuple[Tensor, Tensor]:
        return prompt.heads(prompt.keys), prompt.heads(prompt.values)

    before = made()
    for _, child in _tuned(model):
        child.b.normal_()
        child.s.normal_()
    assert all(torch.equal(a, b) for a, b in zip(before, made(), strict=True))


def test_names_of_the_released_code_match_no_bias_and_no_scale() -> None:
    """Its endings are .added_bias and .added_scale; its parameters are called wq_bias and wq_scale."""
    names = [f"layers.0.attention.{one}_{kind}" for one in ("wq", "wk", "wv", "wo") for kind in ("bias", "scale")]
    norms = ["layers.0.attention_norm.weight", "layers.0.ffn_norm.weight", "norm.weight"]
    unfrozen = [n for n in (*names, *norms) if "_norm." in n or n.endswith((".added_bias", ".added_scale"))]
    assert unfrozen == norms[:2], "the last norm stays frozen too"
