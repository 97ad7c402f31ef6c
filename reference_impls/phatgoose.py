"""PHATGOOSE: routing among LoRA experts by gates that are trained after each expert (muqeeth2024phatgoose).

    alone:     h = W_0 x + sigmoid(v_i . x) B_i A_i x / r                 trains v_i, behind the frozen expert i
    together:  h = W_0 x + sum_i s_i B_i A_i x / r,    s = top_k softmax(LN(v_i) . LN(x) / sqrt(d_in))

Given beside every targeted weight, frozen: A (n_experts, r, d_in), B (n_experts, d_out, r) and the gates v (n_experts,
d_in). LN subtracts the mean and divides by the standard deviation, without parameters. The weights of the top_k experts
are divided by their sum. At inference everything stays.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Experts(kit.Child):
    """The experts and gates beside one weight."""

    def __init__(self, d_in: int, d_out: int, *, n_experts: int, r: int, top_k: int):
        super().__init__()
        self.A = nn.Parameter(torch.randn(n_experts, r, d_in) * 0.01, requires_grad=False)
        self.B = nn.Parameter(torch.zeros(n_experts, d_out, r), requires_grad=False)
        self.v = nn.Parameter(torch.zeros(n_experts, d_in), requires_grad=False)
        self.top_k = top_k

    def shares(self, x: Tensor) -> Tensor:
        """How much of each expert a token gets, (..., n_experts)."""
        d_in = x.shape[-1]
        scores = nn.functional.layer_norm(x, (d_in,)) @ nn.functional.layer_norm(self.v, (d_in,)).T
        best = (scores * d_in**-0.5).softmax(-1).topk(self.top_k, dim=-1)
        weights = best.values / (best.values.sum(-1, keepdim=True) + 1e-6)
        return torch.zeros_like(scores).scatter(-1, best.indices, weights)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = torch.einsum("...d,nrd->...nr", x, self.A) * self.shares(x)[..., None]
        return y + torch.einsum("...nr,nor->...o", low, self.B) / self.A.shape[1]

    def gated(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """Return the output of the module with one expert behind its gate, as while the gate is trained."""
        x = x * (x @ self.v[index]).sigmoid()[..., None]
        return y + x @ self.A[index].T @ self.B[index].T / self.A.shape[1]


def apply(
    model: nn.Module, *, n_experts: int = 166, r: int = 16, top_k: int = 2,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put experts with gates beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "phatgoose", Experts(site.d_in, site.d_out, n_experts=n_experts, r=r, top_k=top_k))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run all experts and the first one alone on recorded inputs; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "phatgoose", Experts)
    x = inputs["x"]
    output: Tensor = site.module(x)
    plain = nn.functional.linear(x, site.weight, site.bias)
    return {"output": output, "shares": child.shares(x), "gated": child.gated(0, x, plain)}
