"""LoRA soups: adapters side by side, with learned weights in every module (prabhakar2025lorasoups; code_lora_soups).

    h = W_0 x + (alpha / r) sum over i of c_i B_i A_i x,    c = softmax(w)

Given, beside every targeted weight: A (tasks * r, d_in) and B (d_out, tasks * r), the factors of all adapters side by
side, frozen. `combine` copies them from trained LoRAs. Trained: w (tasks), one weight for each adapter and module. At
inference the products are added to W_0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging


class Soup(kit.Child):
    """The adapters beside one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, tasks: int, r: int, alpha: float, dropout: float):
        super().__init__()
        self.w = nn.Parameter(torch.randn(tasks))
        self.A = nn.Parameter(torch.zeros(tasks * r, d_in), requires_grad=False)
        self.B = nn.Parameter(torch.zeros(d_out, tasks * r), requires_grad=False)
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def weighed(self) -> Tensor:
        """Return the first factors, each times the weight of its adapter: (tasks * r, d_in)."""
        shares = torch.softmax(self.w, 0).unsqueeze(1)                  # (tasks, 1)
        return (self.A.view(len(shares), -1) * shares).view(self.A.shape)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.weighed().T                # (..., tasks * r)
        return y + self.scale * (low @ self.B.T)

    def delta(self) -> Tensor:
        return self.scale * (self.B @ self.weighed())                   # (d_out, d_in)


def apply(
    model: nn.Module, *, tasks: int = 2, r: int = 32, alpha: float = 64.0, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "mlp.up", "mlp.down"),
) -> nn.Module:
    """Freeze the model and put places for the adapters beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "lora_soups", Soup(site.d_in, site.d_out, tasks=tasks, r=r, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Copy the factors of trained LoRAs, which have the same rank and targets."""
    for _, soup in kit.at_sites(model, "lora_soups", Soup):
        assert len(inputs) == len(soup.w), f"found {len(inputs)} inputs, expected {len(soup.w)}"
        first, second = _merging.pair(soup, "lora_soups")
        for a, b, given in zip(soup.A.chunk(len(inputs)), soup.B.chunk(len(inputs), 1), inputs, strict=True):
            a.copy_(given[first])
            b.copy_(given[second])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the weighted products to the weights."""
    return kit.fold(model, "lora_soups")
