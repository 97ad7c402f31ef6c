"""CorDA: the start keeps as much, or little, of the outputs on the data as its rank allows, and so does peft's."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.corda import preprocess_corda

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import corda
from tests.oracles import layer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


@pytest.mark.parametrize("method", ["ipm", "kpm"])
def test_the_extreme_singular_values_of_weight_times_context(method: str) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(7, 9).double(), torch.randn(50, 9).double() * torch.logspace(0, -1, 9)
    child = corda.CorDA(9, 7, r=3, alpha=6.0, dropout=0.0, corda_method=method).double()
    context = x.T @ x / 50
    child.orient(weight, context)
    damped = context + 0.01 * context.diagonal().mean() * torch.eye(9)
    values = torch.linalg.svdvals(weight @ damped)
    start = child.scale * child.B_0 @ child.A_0
    trained, rest = (values[:3], values[3:]) if method == "ipm" else (values[-3:], values[:-3])
    assert torch.allclose(torch.linalg.svdvals(start @ damped)[:3], trained)
    assert torch.allclose(torch.linalg.svdvals((weight - start) @ damped)[:4], rest)
    assert child.delta().abs().max() < 1e-12


def test_inputs_that_are_all_zero_have_no_start() -> None:
    """Their moments are divided by zero, and no damping would ever end the search."""
    moments = torch.zeros(3, 3) / torch.zeros(())
    with pytest.raises(ValueError, match="nothing to start from"):
        corda.damped(moments)


@pytest.mark.parametrize("method", ["ipm", "kpm"])
def test_peft_starts_with_the_same_product(method: Any) -> None:
    """One sample for each forward pass, as peft needs them."""
    samples = [{name: value[i : i + 1] for name, value in tiny.batch("llama").items()} for i in range(3)]
    ours = corda.apply(tiny.model("llama"), r=3, alpha=6.0, corda_method=method, targets=("attn.q", "attn.v"))
    corda.calibrate(ours, (ours(**sample).logits.sum() for sample in samples))
    base: Any = tiny.model("llama").float()
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights="corda",
        corda_config=peft.tuners.lora.config.CordaConfig(corda_method=method),
    )  # fmt: skip
    preprocess_corda(base, config, run_model=lambda: [base(**sample) for sample in samples])
    theirs: Any = peft.get_peft_model(base, config)
    for site, child in kit.at_sites(ours, "corda", corda.CorDA):
        pair = layer(theirs, site)
        product = pair.lora_B["default"].weight @ pair.lora_A["default"].weight
        assert torch.allclose(product.double(), child.B @ child.A, atol=1e-3)
        assert torch.allclose(pair.base_layer.weight.double(), site.weight - child.scale * product, atol=1e-5)
