"""NOLA: the count is the user's choice, and bases that are drawn again give the gradients of bases that are held."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import peftonomy
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import nola

pytestmark = pytest.mark.torch


def test_the_count_depends_on_neither_rank_nor_width() -> None:
    method = peftonomy.load()["nola"]
    counts = {
        method.cost(model, r=r, k=7, targets=["attn.q"]).trained / model_layers
        for model, model_layers in (("llama_2_7b", 32), ("llama_2_70b", 80))
        for r in (1, 64)
    }
    assert counts == {2 * 7}


def changed() -> tuple[nn.Module, nola.NOLA]:
    torch.manual_seed(0)
    model = nola.apply(tiny.model("llama"), r=3, k=5, alpha=6.0, targets=("mlp.up",))
    [child, *_] = [child for _, child in kit.at_sites(model, "nola", nola.NOLA)]
    nn.init.normal_(child.a)
    nn.init.normal_(child.b)
    return model, child


def test_bases_drawn_again_give_the_gradients_of_bases_that_are_held() -> None:
    _, child = changed()
    probe = torch.randn_like(child.delta())
    found = torch.autograd.grad((child.delta() * probe).sum(), [child.a, child.b])
    held_a, held_b = child.bases(0, child.a), child.bases(1, child.b)
    factor_a = child.A_0 + torch.einsum("k,krd->rd", child.a, held_a)
    factor_b = torch.einsum("k,kor->or", child.b, held_b)
    wanted = 6.0 / 3 * factor_b @ factor_a
    assert torch.allclose(child.delta(), wanted, atol=1e-5)
    for mine, other in zip(found, torch.autograd.grad((wanted * probe).sum(), [child.a, child.b]), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)
    assert torch.linalg.matrix_rank(child.delta()) == 3
    assert held_a.abs().max() <= 5**-0.5 < 1.2 * held_a.abs().max()


def test_without_the_frozen_part_nothing_is_trained() -> None:
    _, child = changed()
    nn.init.zeros_(child.a)
    nn.init.zeros_(child.b)
    _, second = torch.autograd.grad(child.delta().sum(), [child.a, child.b])
    assert second.abs().min() > 0
    child.A_0.zero_()
    assert not any(g.any() for g in torch.autograd.grad(child.delta().sum(), [child.a, child.b]))


def test_every_factor_has_bases_of_its_own() -> None:
    model, _ = changed()
    children = [child for _, child in kit.at_sites(model, "nola", nola.NOLA)]
    firsts = [child.bases(side, child.a).flatten()[0].item() for child in children for side in (0, 1)]
    assert len(set(firsts)) == len(firsts) > 2
