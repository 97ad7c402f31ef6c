"""ShadowPEFT: peft holds the shadow as a model of its own, and wraps the layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.shadow_peft import Shadow, Step

FAMILIES = ("gpt2", "llama")


def copy(ours: nn.Module, theirs: Any) -> None:
    backbone = dict(theirs.base_model.shadow_backbone["default"].named_parameters())
    for child in kit.attached(ours, "shadow_peft"):
        if isinstance(child, Shadow):
            for name, double in child.own.items():
                for value in double.parameters():
                    backbone[name].copy_(value)
    for block in kit.blocks(ours, "layer"):
        step = block.module.get_submodule("shadow_peft")
        assert isinstance(step, Step)
        wrapper = theirs.base_model.model.get_submodule(block.path)
        wrapper.shadow_down["default"].weight.copy_(step.D)
        wrapper.shadow_up["default"].weight.copy_(step.U)
        if not step.last:
            for net, part in (("T", wrapper.shadow_update_transform), ("G", wrapper.shadow_update_gate)):
                for place, at in (("in", 0), ("out", 2)):
                    linear = part["default"][at]
                    linear.weight.copy_(getattr(step, f"{net}_{place}"))
                    linear.bias.copy_(getattr(step, f"b_{net}_{place}"))
