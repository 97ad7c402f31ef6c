"""Res-Tuning: the bypass alone reaches the last norm, and no gradient passes the backbone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import res_tuning
from reference_impls._image import final_norm

pytestmark = pytest.mark.torch


def _states(layers: list[kit.Block]) -> list[Tensor]:
    """Lists that are filled with the input of the first layer and the output of every layer."""
    seen: list[Tensor] = []
    layers[0].module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for layer in layers:
        layer.module.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    return seen


@torch.no_grad()
def test_without_corrections_the_last_norm_reads_the_sum_of_all_states() -> None:
    """Each tuner is then the identity. The last norm would otherwise read the last state alone."""
    model = res_tuning.apply(tiny.model("vit"), bottleneck=3).eval()
    for child in kit.attached(model, "res_tuning"):
        for name, value in child.named_parameters():
            if "up" in name:
                value.zero_()
    plain = tiny.model("vit").eval()
    for one in (model, plain):
        seen, read = _states(kit.blocks(one, "layer")), list[Tensor]()
        final_norm(one).register_forward_hook(lambda _, args, __, read=read: read.append(args[0]))
        tiny.outputs(one, "vit")
        assert len(seen) == 3
        wanted = sum(seen) if one is model else seen[-1]
        assert torch.allclose(read[0], torch.as_tensor(wanted), atol=tiny.TOLERANCE)


def test_no_gradient_passes_the_backbone_even_where_it_is_trained() -> None:
    model = res_tuning.apply(tiny.model("vit"), bottleneck=3)
    for layer in kit.blocks(model, "layer"):
        layer.sites["mlp.down"].module.weight.requires_grad_(True)
    tiny.outputs(model, "vit").square().sum().backward()
    assert all(layer.sites["mlp.down"].module.weight.grad is None for layer in kit.blocks(model, "layer"))
    own = [p for child in kit.attached(model, "res_tuning") for p in child.parameters()]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own)


def test_checkpoints_and_copies_give_the_same_gradients_and_no_state_is_left() -> None:
    tiny.seed(0)
    model = res_tuning.apply(tiny.model("vit"), bottleneck=3).train()
    again = copy.deepcopy(model)
    again.activation_checkpointing_enable()                         # type: ignore[operator]
    found = []
    for one in (model, again):
        tiny.outputs(one, "vit").square().sum().backward()
        children = [child for child in kit.attached(one, "res_tuning") if isinstance(child, res_tuning.Tuners)]
        assert all(child.x is None and child.h is None for child in children)
        found.append([p.grad for child in children for p in child.parameters()])
    assert all(a is not None and b is not None and torch.allclose(a, b) for a, b in zip(*found, strict=True))
