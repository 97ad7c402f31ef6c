"""O-LoRA: orthogonal low-rank adaptation for a sequence of tasks (wang2023olora; code_o_lora).

    h = W_0 x + (alpha / r) (B_p A_p x + B A x)

A_p (past * r, d_in) and B_p (d_out, past * r) hold the factors of `past` earlier tasks and are frozen. Trained: A (r,
d_in) and B (d_out, r) of the present task. A training loop adds a multiple of `penalty(model)` to its loss, which keeps
the rows of A orthogonal to those of A_p. `next_task` moves A and B to the earlier ones and starts new factors. At
inference the products are added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class OLoRA(kit.Child):
    """The corrections of all tasks so far beside one weight of shape (d_out, d_in)."""

    A_p: Tensor
    B_p: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, past: int, dropout: float):
        super().__init__()
        if past:
            self.register_buffer("A_p", torch.zeros(past * r, d_in))
            self.register_buffer("B_p", torch.zeros(d_out, past * r))
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale, self.past = alpha / r, past
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x)
        if self.past:
            y = y + self.scale * (x @ self.A_p.T @ self.B_p.T)          # (..., d_in) -> (..., past * r) -> (..., d_out)
        return y + self.scale * (x @ self.A.T @ self.B.T)

    def delta(self) -> Tensor:
        earlier = self.B_p @ self.A_p if self.past else 0
        return self.scale * (self.B @ self.A + earlier)                 # (d_out, d_in)

    @torch.no_grad()
    def advance(self) -> None:
        before = (self.A_p, self.B_p) if self.past else (self.A[:0], self.B[:, :0])
        self.register_buffer("A_p", torch.cat([before[0], self.A]))
        self.register_buffer("B_p", torch.cat([before[1], self.B], dim=1))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B.zero_()
        self.past += 1


def corrections(model: nn.Module) -> list[OLoRA]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "o_lora", OLoRA)]


def penalty(model: nn.Module) -> Tensor:
    """Return the sum of |A_p A^T| over all weights, of which the authors' script adds one half to the loss."""
    products = ((child.A_p @ child.A.T).abs().sum() for child in corrections(model) if child.past)
    return sum(products, torch.tensor(0.0))


def next_task(model: nn.Module) -> nn.Module:
    """Freeze the factors of the present task with the earlier ones, and start those of the next."""
    for child in corrections(model):
        child.advance()
    return model


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 32.0, past: int = 0, dropout: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put the corrections of a task, and of those before it, beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = OLoRA(site.d_in, site.d_out, r=r, alpha=alpha, past=past, dropout=dropout)
        kit.attach(site, "o_lora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "o_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and its penalty; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "o_lora", OLoRA)
    return {"output": site.module(inputs["x"]), "penalty": penalty(model)}
