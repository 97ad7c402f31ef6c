"""GLoRA: with all but one part at zero it is LoRA, a scaling of the outputs, or a trained bias."""

from __future__ import annotations

import pytest
import torch

from reference_impls.glora import Parts
from reference_impls.lora import LoRA

pytestmark = pytest.mark.torch


def parts(form: str) -> tuple[Parts, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    child = Parts(5, 4, True, r=2, config_A_B=form, config_C=form, config_D_E="vector")
    return child, torch.randn(4, 5), torch.randn(4)


def test_b_alone_is_lora() -> None:
    child, w, b = parts("lora")
    torch.nn.init.normal_(child.B_d)
    lora = LoRA(5, 4, r=2, alpha=2.0, dropout=0.0)
    lora.A.data, lora.B.data = child.B_u, child.B_d
    assert torch.allclose(child.weight(w), lora.delta())
    assert not child.bias(w, b).any()


def test_equal_vectors_for_a_and_d_scale_the_output() -> None:
    child, w, b = parts("vector")
    scale = torch.randn(4)
    child.A.data, child.D.data = scale, scale
    x = torch.randn(5)
    changed = (w + child.weight(w)) @ x + b + child.bias(w, b)
    assert torch.allclose(changed, (1 + scale) * (w @ x + b), atol=1e-6)


def test_c_is_a_prompt_added_to_the_input() -> None:
    child, w, b = parts("vector")
    torch.nn.init.normal_(child.C)
    x = torch.randn(5)
    assert torch.allclose(w @ x + b + child.bias(w, b), w @ (x + child.C) + b, atol=1e-6)
