"""Hydra: multi-head low-rank adaptation (kim2023hydra; code_hydra#vtab1k/hydra.py:Hydra_layer).

    h = z + scale (B_p (A_p x + a_p) + b_p + B_s (A_s z + a_s) + b_s),    z = W_0 x + b_0

Trained: at every targeted weight a parallel branch, A_p (r_par, d_in) and B_p (d_out, r_par), and a sequential one, A_s
(r_seq, d_out) and B_s (d_out, r_seq); with `biases` also a_p, b_p, a_s and b_s where the module has a bias that can
take them up. The B start at zero. At inference both branches are added to W_0 and b_0.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class Hydra(kit.Child):
    """The branches at one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(
        self, d_in: int, d_out: int, *, r_par: int, r_seq: int, scale: float, dropout: float, biases: bool
    ):
        super().__init__()
        for name, width, r in (("p", d_in, r_par), ("s", d_out, r_seq)):
            first = nn.init.xavier_uniform_(torch.empty(r, width))
            self.register_parameter(f"A_{name}", nn.Parameter(first))
            self.register_parameter(f"a_{name}", nn.Parameter(torch.zeros(r)) if biases else None)
            self.register_parameter(f"B_{name}", nn.Parameter(torch.zeros(d_out, r)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.zeros(d_out)) if biases else None)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def branch(self, name: str, x: Tensor) -> Tensor:
        first, second = self.get_parameter(f"A_{name}"), self.get_parameter(f"B_{name}")
        low = self.dropout(linear(x, first, getattr(self, f"a_{name}")))    # (..., r)
        return self.scale * linear(low, second, getattr(self, f"b_{name}"))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.branch("p", x) + self.branch("s", y)        # (..., d_in), (..., d_out) -> (..., d_out)


def apply(
    model: nn.Module, *, r_par: int = 2, r_seq: int = 2, scale: float = 1.0, dropout: float = 0.2,
    biases: bool = True, targets: tuple[str, ...] = ("attn.o", "mlp.down"),
) -> nn.Module:
    """Freeze the model, and put a parallel and a sequential branch at every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Hydra(
            site.d_in, site.d_out, r_par=r_par, r_seq=r_seq, scale=scale, dropout=dropout,
            biases=biases and site.bias is not None,
        )
        kit.attach(site, "hydra", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the branches to the weights and biases."""
    for site, child in kit.at_sites(model, "hydra", Hydra):
        child.eval()
        offset = torch.zeros(1, site.d_in).to(site.weight)
        inputs = torch.cat([offset, torch.eye(site.d_in).to(site.weight)])          # no input, and each unit vector
        bias = 0 if site.bias is None else site.bias
        outputs = child.after(inputs, inputs @ site.weight.T + bias)                # (1 + d_in, d_out)
        site.weight.copy_((outputs[1:] - outputs[0]).T)
        if site.bias is not None:
            site.bias.copy_(outputs[0])
    kit.detach(model, "hydra")
    return model
