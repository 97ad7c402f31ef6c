"""Mona: an adapter's change at a patch depends on the 7 by 7 patches around it, channel by channel before it mixes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import mona

pytestmark = pytest.mark.torch


def _made(family: str) -> mona.Mona:
    model = mona.apply(tiny.model(family), bottleneck=4, dropout=0.0)
    shake(model)
    tiny.outputs(model, family)             # measures the image where layers are told its size
    [child, *_] = kit.attached(model, "mona")
    assert isinstance(child, mona.Mona)
    return child


def _reach(child: mona.Mona, x: Tensor, block: str, position: int) -> Tensor:
    """Return which positions of the state one position of an adapter's change depends on."""
    x = x.clone().requires_grad_()
    [grad] = torch.autograd.grad(child.delta(x, block)[0, position].sum(), x)
    return grad[0].abs().sum(-1) > 1e-12


def test_a_patch_sees_as_far_as_the_largest_kernel() -> None:
    """In the first stage of a Swin transformer, whose attention sees windows of 2 by 2."""
    child = _made("swin")
    assert child.grid is not None
    height, width = child.grid
    assert (height, width) == (16, 16)
    x = torch.randn(1, height * width, len(child.get_parameter("gain_attn")), dtype=torch.float64)
    rows, columns = torch.arange(height * width) // width, torch.arange(height * width) % width
    near = ((rows[:, None] - rows).abs() <= 3) & ((columns[:, None] - columns).abs() <= 3)
    for block in ("attn", "mlp"):
        for position in (0, 100, 255):                              # a corner, a patch inside, the other corner
            assert torch.equal(_reach(child, x, block, position), near[position])
    with torch.no_grad():
        child.get_parameter("K7_mlp").zero_()
    near = ((rows[:, None] - rows).abs() <= 2) & ((columns[:, None] - columns).abs() <= 2)
    assert torch.equal(_reach(child, x, "mlp", 100), near[100])


def test_a_class_token_is_an_image_of_its_own() -> None:
    child = _made("vit")
    x = torch.randn(1, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    apart = torch.block_diag(torch.ones(1, 1), torch.ones(9, 9)).bool()     # 3 by 3 patches, all near each other
    for position in range(10):
        assert torch.equal(_reach(child, x, "attn", position), apart[position])


@torch.no_grad()
def test_without_kernels_what_is_left_is_an_adapter_on_the_scaled_state() -> None:
    child = _made("vit")
    own = {name.removesuffix("_attn"): p for name, p in child.named_parameters() if name.endswith("_attn")}
    for name in ("K3", "K5", "K7", "c3", "c5", "c7", "P", "p", "gamma"):
        own[name].zero_()
    x = torch.randn(2, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.nn.functional.gelu((x * own["gammax"]) @ own["W_down"].T + own["b_down"])
    assert torch.allclose(child.delta(x, "attn"), z @ own["W_up"].T + own["b_up"])


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        mona.apply(tiny.model("bert"))
