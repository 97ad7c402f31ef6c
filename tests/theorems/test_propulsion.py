"""Propulsion: near the start, the power multiplies the effect of a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import propulsion

pytestmark = pytest.mark.torch


def gradients(degree: int) -> list[Tensor]:
    model = propulsion.apply(tiny.model("llama"), degree=degree)
    tiny.loss(model, "llama").backward()
    return [child.p.grad for _, child in kit.at_sites(model, "propulsion", propulsion.Scale)]  # type: ignore[misc]


def test_the_gradient_at_the_start_is_degree_times_that_of_a_plain_scale() -> None:
    plain = gradients(1)
    for degree in (2, 5):
        for one, many in zip(plain, gradients(degree), strict=True):
            assert torch.allclose(many, degree * one)
    assert max(float(g.abs().max()) for g in plain) > 0


def test_an_even_power_keeps_the_sign_of_an_output() -> None:
    for degree, turned in ((2, False), (3, True)):
        child = propulsion.Scale(4, degree=degree)
        with torch.no_grad():
            child.p.copy_(torch.tensor([-1.5, -0.5, 0.5, 1.5]))
        y = torch.ones(4)
        assert (child.after(y, y) < 0).tolist() == [turned, turned, False, False]


def test_scales_of_all_modules_change_no_direction_of_the_weights() -> None:
    """Each row of a merged weight is a multiple of the pretrained row."""
    model = propulsion.apply(tiny.model("bert"), degree=3)
    with torch.no_grad():
        for _, child in kit.at_sites(model, "propulsion", propulsion.Scale):
            child.p.uniform_(0.5, 1.5)
    propulsion.merge(model)
    sites = ("attn.*", "mlp.*")
    for new, old in zip(kit.sites(model, sites), kit.sites(tiny.plain("bert"), sites), strict=True):
        cosine = torch.nn.functional.cosine_similarity(new.weight, old.weight, dim=1)
        assert torch.allclose(cosine, torch.ones_like(cosine))
        assert not torch.allclose(new.weight, old.weight)
