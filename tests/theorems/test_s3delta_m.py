"""S3Delta-M: gates held to a budget by a shift, a structure that the data choose, winners trained again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.trial import layout
from reference_impls import _kit as kit
from reference_impls import s3delta_m

from ..knowledge import KB

pytestmark = pytest.mark.torch


def applied(family: str, kept: float) -> nn.Module:
    torch.manual_seed(0)
    return s3delta_m.apply(tiny.model(family), kept=kept, reduction=3)


@pytest.mark.parametrize("kept", [0.02, 0.2, 0.7])
def test_whatever_the_structure_weights_the_expected_size_is_the_budget(kept: float) -> None:
    model = applied("bert", kept)
    for seed in range(3):
        torch.manual_seed(seed)
        for alpha in s3delta_m.alphas(model):
            nn.init.normal_(alpha, std=3)
        p = s3delta_m.chances(model)
        assert torch.isclose(p.detach() @ s3delta_m.sizes(model), torch.tensor(float(s3delta_m.budget(model))).to(p))
        [gradient, *_] = torch.autograd.grad(p[0], s3delta_m.alphas(model)[:1], retain_graph=True)
        others = torch.autograd.grad(p[1:].sum(), s3delta_m.alphas(model)[:1])[0]
        assert gradient > 0
        assert torch.allclose(others, -gradient)        # raising one lowers the others by as much


@pytest.mark.parametrize("family", ["bert", "t5", "llama", "gpt2"])
@pytest.mark.parametrize("kept", [0.03, 0.3, 0.99])
def test_the_likeliest_that_fit_are_kept_and_the_budget_is_that_of_the_entry(family: str, kept: float) -> None:
    model = applied(family, kept)
    torch.manual_seed(1)
    for alpha in s3delta_m.alphas(model):
        nn.init.normal_(alpha)
    p, size, most = s3delta_m.chances(model).tolist(), s3delta_m.sizes(model).tolist(), s3delta_m.budget(model)
    found = list(s3delta_m.candidates(model))
    backbone, task, labels = layout(family)
    cost = KB["s3delta_m"].cost(backbone, task=task, num_labels=labels, kept=kept, reduction=3)
    assert most == cost.stored
    assert sum(size) + len(size) == cost.trained
    s3delta_m.select(model)
    won = [kind in child.kinds() for child, kind in found]
    spent = sum(s for s, on in zip(size, won, strict=True) if on)
    assert 0 < spent <= most
    assert spent == sum(v.numel() for v in s3delta_m.pack(model).values())
    assert not any(".a_" in name for name, _ in model.named_parameters())
    for i, on in enumerate(won):        # who is out did not fit behind those that were likelier
        if not on:
            assert size[i] + sum(size[j] for j, in_ in enumerate(won) if in_ and p[j] >= p[i]) > most


def planted(seed: int) -> tuple[nn.Module, str]:
    """A teacher that differs from the tiny model in one bias only, and where that is."""
    model = tiny.model("llama")
    sites = kit.sites(model, ("attn.*", "mlp.*"))
    site = sites[seed * 5 % len(sites)]
    bias = torch.randn(site.d_out, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    site.module.register_forward_hook(lambda module, args, output: output + 2 * bias)
    return model, site.path


def test_the_search_finds_where_a_task_changed_the_model() -> None:
    """Modules learn on one half of the batch, structure weights on the other, as in architecture search."""
    right = 0
    for seed in range(2):
        teacher, path = planted(seed)
        target = tiny.outputs(teacher, "llama").detach()
        model = applied("llama", 0.04)
        structure = s3delta_m.alphas(model)
        modules = [p for p in model.parameters() if p.requires_grad and all(p is not a for a in structure)]
        slow, fast = torch.optim.Adam(modules, lr=0.03), torch.optim.Adam(structure, lr=0.03)
        rows = torch.arange(len(target)) % 2 == 0
        model.train()
        for step in range(300):
            optimiser, half = (fast, ~rows) if step % 2 else (slow, rows)
            slow.zero_grad()
            fast.zero_grad()
            ((tiny.outputs(model, "llama") - target)[half] ** 2).mean().backward()
            optimiser.step()
        model.eval()
        best = s3delta_m.chances(model).argmax().item()
        child, kind = list(s3delta_m.candidates(model))[int(best)]
        right += (kind, path) == ("bias", child.site.path) if isinstance(child, s3delta_m.AtSite) else 0
    assert right == 2


def test_winners_go_back_to_their_start_and_are_trained_again() -> None:
    model = applied("bert", 0.2)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(6):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
    before: dict[str, Tensor] = s3delta_m.pack(model)
    s3delta_m.select(model)
    after = s3delta_m.pack(model)
    assert 0 < len(after) < len(before)
    assert all(not value.any() for name, value in after.items() if name.endswith((".b", ".B", ".n", ".c_1", ".c_2")))
    start = tiny.loss(model, "bert").item()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(12):
        optimiser.zero_grad()
        tiny.loss(model, "bert").backward()
        optimiser.step()
    assert tiny.loss(model, "bert").item() < start
