"""The parallel adapter, where both read the same: in models that norm behind the residual."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit

from ._bottlenecks import parts, place

FAMILIES = ("bert", "roberta")


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    blocks = {(b.stack, b.layer): b for b in kit.blocks(ours, "mlp")}
    children = [m for m in kit.attached(ours, "parallel_adapter") if hasattr(m, "W_down")]
    for block, child in zip(blocks.values(), children, strict=True):
        found |= parts(place(block.sites["mlp.down"]), child)
    return found
