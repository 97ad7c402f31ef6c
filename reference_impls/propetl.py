"""ProPETL: one network, many masks (zeng2023propetl#section-3), with an adapter as the network.

    LN(h + x) <- LN(h + x + A(LN(h + x)))  where a norm follows the residual,    y <- y + A(y)  elsewhere
    A(z) = (W_up * m_up) relu((W_down * m_down) z + b_down) + b_up,    m = 1 where |score| is largest, else 0

One adapter, the prototype, serves every layer; of its weights each layer sees the share `kept` that its own masks
select. While training a mask is scores, one per weight, that the forward pass rounds to 0 and 1 and the backward
pass does not (straight-through). Trained: the prototype once, and the scores m_down (bottleneck, d_model) and
m_up (d_model, bottleneck) of every layer. At inference the prototype remains, and one bit for each score:
`finish` rounds them for good.

The adapter stands where that of `pfeiffer_adapter` does. The official argument called sparsity is the share kept. LoRA
and prefixes as prototypes, and further masks for several tasks at once, are not here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from .pfeiffer_adapter import Placed


class Prototype(kit.Child):
    """The adapter that all layers share."""

    def __init__(self, d_model: int, *, bottleneck: int):
        super().__init__()
        self.W_down = nn.Parameter(0.02 * torch.randn(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(0.02 * torch.randn(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))


class Masked(Placed):
    """The prototype as one layer sees it."""

    prototype: Prototype        # not a submodule

    def __init__(self, prototype: Prototype, *, kept: float):
        super().__init__()
        kit.share(self, prototype=prototype)
        self.kept = kept
        bottleneck, d_model = prototype.W_down.shape
        self.m_down = nn.Parameter(torch.empty(bottleneck, d_model).uniform_(-1, 1) * bottleneck**-0.5)
        self.m_up = nn.Parameter(torch.empty(d_model, bottleneck).uniform_(-1, 1) * d_model**-0.5)

    def mask(self, m: Tensor) -> Tensor:
        if m.dtype == torch.bool:
            return m
        rank = m.detach().abs().flatten().argsort().argsort().view_as(m)
        hard = (rank >= int((1 - self.kept) * m.numel())).to(m.dtype)
        return hard + m.abs() - m.abs().detach()                    # the value of `hard`, the gradient of |m|

    def delta(self, h: Tensor) -> Tensor:
        p = self.prototype
        z = torch.relu(linear(h, p.W_down * self.mask(self.m_down), p.b_down))  # (..., d_model) -> (..., bottleneck)
        return linear(z, p.W_up * self.mask(self.m_up), p.b_up)                 # (..., bottleneck) -> (..., d_model)


def apply(model: nn.Module, *, bottleneck: int = 64, kept: float = 0.5, name: str = "propetl") -> nn.Module:
    """Freeze the model and put the one adapter into every layer."""
    kit.freeze(model)
    prototype = Prototype(kit.inventory(model).dims["d_model"], bottleneck=bottleneck)
    kit.attach(model, name, prototype)
    for layer in kit.blocks(model, "layer"):
        child = Masked(prototype, kept=kept)
        kit.attach(layer.module, name, child).append(child.act(model, layer.module, layer.sites["mlp.down"].path))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states


@torch.no_grad()
def finish(model: nn.Module, name: str = "propetl") -> nn.Module:
    """Round the scores to bits for good."""
    for child in kit.attached(model, name):
        if isinstance(child, Masked):
            for mask in ("m_down", "m_up"):
                bits = child.mask(getattr(child, mask)) > 0.5
                delattr(child, mask)
                child.register_buffer(mask, bits)
    return model
