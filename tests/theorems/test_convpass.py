"""Convpass: its output at a patch depends on the eight patches around it; at the class token, on no patch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import convpass

pytestmark = pytest.mark.torch
GRID = (3, 3)


def _reach(bypass: convpass.Bypass) -> Tensor:
    """Return which positions of the input each position of the bypass's output depends on."""
    x = torch.randn(1, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def added(x: Tensor) -> Tensor:
        bypass.before(x)
        return bypass.add(x, torch.zeros_like(x))[0].sum(1)

    jacobian = torch.autograd.functional.jacobian(added, x)[:, 0]      # (positions out, positions in, d)
    return jacobian.abs().sum(-1) > 1e-12


def test_a_patch_sees_its_neighbours_and_the_class_token_itself() -> None:
    model = convpass.apply(tiny.model("vit"), bottleneck=4, dropout=0.0, xavier=True)
    shake(model)
    rows, columns = torch.arange(9) // 3, torch.arange(9) % 3
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    wanted = torch.block_diag(torch.ones(1, 1), near).bool()
    assert near.sum() == 49                                          # 4 corners of 4, 4 sides of 6, the centre of 9
    for bypass in kit.attached(model, "convpass"):
        assert isinstance(bypass, convpass.Bypass)
        assert bypass.grid == GRID
        assert torch.equal(_reach(bypass), wanted)
    plain = convpass.apply(tiny.model("vit"), bottleneck=4, dropout=0.0)
    [bypass, *_] = kit.attached(plain, "convpass")
    assert isinstance(bypass, convpass.Bypass)
    torch.nn.init.normal_(bypass.get_parameter("W_up_attn"))
    assert torch.equal(_reach(bypass), torch.eye(10).bool()), "a kernel that starts at the identity mixes no patches"


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        convpass.apply(tiny.model("bert"))
