"""(IA)^3: learned rescaling of inner activations (liu2022ia3#section-3.3).

    softmax(Q (l_k * K)^T / sqrt(d)) (l_v * V),    (l_ff * act(W_1 x)) W_2

Trained: a vector per targeted weight, all ones at first; `l_out` (the paper's l_k and l_v) scales the outputs
of an attention projection, `l_ff` the inputs of a feed-forward projection. At inference both are folded into
the rows or columns of the weight. T-Few scales the output of W_1's linear half on gated feed-forwards, which is
the same function; the `adapters` library scales before the activation, which is not.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class ScaleOutput(kit.Child):
    """Keys or values, times a learned vector."""

    def __init__(self, d_out: int):
        super().__init__()
        self.l_out = nn.Parameter(torch.ones(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return self.l_out * y


class ScaleInput(kit.Child):
    """What a feed-forward projection reads, times a learned vector."""

    def __init__(self, d_in: int):
        super().__init__()
        self.l_ff = nn.Parameter(torch.ones(d_in))

    def before(self, x: Tensor) -> Tensor:
        return self.l_ff * x


def apply(
    model: nn.Module, *, targets: tuple[str, ...] = ("attn.k", "attn.v", "xattn.k", "xattn.v", "mlp.down")
) -> nn.Module:
    """Freeze the model and rescale what the targeted weights write (attention) or read (feed-forward)."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        inner = site.role.startswith("mlp.")
        kit.attach(site, "ia3", ScaleInput(site.d_in) if inner else ScaleOutput(site.d_out))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold the vectors into the weights (and biases, which are scaled with the outputs)."""
    for site, inner in kit.at_sites(model, "ia3", ScaleInput):
        site.weight.mul_(inner.l_ff)                    # columns
    for site, outer in kit.at_sites(model, "ia3", ScaleOutput):
        site.weight.mul_(outer.l_out[:, None])          # rows
        if site.bias is not None:
            site.bias.mul_(outer.l_out)
    kit.detach(model, "ia3")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])[0]
    return output
