"""KronA^B: what stands beside the block is the block's own input, mapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import krona_b

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_adds_the_product_and_the_residual_to_the_output_of_the_block(family: str, residual: bool) -> None:
    model = krona_b.apply(tiny.model(family), a1=2, a2=2, scale=0.5, residual=residual)
    block = kit.blocks(model, "mlp")[0]
    [child] = [c for c in kit.attached(model, "krona_b") if c.host is block.sites["mlp.up"].module]
    for parameter in child.parameters():
        nn.init.normal_(parameter)
    seen: dict[str, Tensor] = {}

    def reads(_: nn.Module, args: Any) -> None:
        seen["x"] = args[0]

    def writes(module: nn.Module, args: Any, output: Tensor) -> None:
        seen["out"], seen["plain"] = output, torch.nn.functional.linear(args[0], module.weight, module.bias)

    block.sites["mlp.up"].module.register_forward_pre_hook(reads)
    block.sites["mlp.down"].module.register_forward_hook(writes)        # after the child's own hook
    tiny.outputs(model, family)
    added = seen["x"] @ torch.kron(child.A, child.B).T * 0.5
    if residual:
        added = added + child.s_res * seen["x"]
    assert added.abs().max() > 0.1
    assert torch.allclose(seen["out"] - seen["plain"], added)
