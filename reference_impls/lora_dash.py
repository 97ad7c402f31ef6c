"""LoRA-Dash: LoRA and the coordinates of task-specific directions (si2024loradash; code_subspace_tuning).

    h = W_0 x + (alpha / r) B A x + U diag(s) V x,    W_0 = sum over i of sigma_i u_i v_i^T

Trained: A (r, d_in), B (d_out, r) and s (n). U (d_out, n) and V (n, d_in) hold n pairs of singular vectors u_i, v_i
and are frozen. A training loop calls `launch` after about a hundred steps. It chooses the directions that the product
of the factors changes most, relative to the singular value: the largest |u_i^T (alpha / r) B A v_i| / sigma_i. At the
start no direction has changed, and the strongest are taken. At inference both terms are added to W_0.
"""

import copy

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class Dash(lora.LoRA):
    """The correction beside one weight of shape (d_out, d_in), and the chosen directions."""

    U: Tensor
    V: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, directions: int):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        if directions > min(d_in, d_out):
            raise ValueError(f"a weight of {d_out} x {d_in} does not have {directions} directions")
        self.s = nn.Parameter(torch.zeros(directions))
        self.register_buffer("U", torch.zeros(d_out, directions))
        self.register_buffer("V", torch.zeros(directions, d_in))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        along: Tensor = self.dropout(x) @ self.V.T * self.s                 # (..., n)
        dash: Tensor = along @ self.U.T                                     # (..., d_out)
        return super().after(x, y) + dash

    def delta(self) -> Tensor:
        return super().delta() + (self.U * self.s) @ self.V                 # (d_out, d_in)

    @torch.no_grad()
    def choose(self, weight: Tensor) -> None:
        """Choose the directions of the weight by the present product of the factors, and reset their coordinates."""
        u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
        changes = torch.einsum("oi,od,id->i", u, super().delta(), v).abs() / sigma
        best = changes.argsort(descending=True, stable=True)[: len(self.s)]
        self.U.copy_(u[:, best])
        self.V.copy_(v[best])
        self.s.zero_()


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, directions: int = 8, dropout: float = 0.05,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down",
    ),
) -> nn.Module:
    """Freeze the model and put a correction with directions beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Dash(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, directions=directions)
        kit.attach(site, "lora_dash", child)
    return launch(model)


def launch(model: nn.Module) -> nn.Module:
    """Choose the directions of every targeted weight. For the training loop, after its first steps."""
    for site, child in kit.at_sites(model, "lora_dash", Dash):
        child.choose(site.weight.detach())
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_dash")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and choose the directions in a copy of it; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "lora_dash", Dash)
    launched = launch(copy.deepcopy(model))
    [(_, child)] = kit.at_sites(launched, "lora_dash", Dash)
    return {"output": site.module(inputs["x"]), "chosen_U": child.U.abs(), "chosen_V": child.V.abs()}
