"""ShareLoRA: shared low-rank adaptation (song2024sharelora; code_sharelora#sharelora/lora_llama3_share.py).

    h = W_0 x + (alpha / r) B A x        with one A, one B, or one of each for all layers

Trained: for every targeted role the shared factors, A_s (r, d_in) unless only the second is shared, and B_s (d_out, r)
unless only the first is; beside every targeted weight the other factor, B (d_out, r) or A (r, d_in). The second factor
starts at zero. At inference the product is added to W_0.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

SHARED = {"first": "A", "second": "B", "both": "AB"}


class Factors(kit.Child):
    """The factors of one weight, or those that all weights of one role share. suffix: ends their names."""

    def __init__(self, d_in: int, d_out: int, *, r: int, names: str, suffix: str = ""):
        super().__init__()
        if "A" in names:
            first = nn.init.kaiming_uniform_(torch.empty(r, d_in), a=math.sqrt(5))
            self.register_parameter(f"A{suffix}", nn.Parameter(first))
        if "B" in names:
            self.register_parameter(f"B{suffix}", nn.Parameter(torch.zeros(d_out, r)))


class ShareLoRA(Factors):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Factors     # not a submodule

    def __init__(
        self, shared: Factors, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, share: str
    ):
        super().__init__(d_in, d_out, r=r, names={"first": "B", "second": "A", "both": ""}[share])
        kit.share(self, shared=shared)
        self.common, self.scale = SHARED[share], alpha / r
        self.dropout = nn.Dropout(dropout)

    def factor(self, name: str) -> Tensor:
        return self.shared.get_parameter(f"{name}_s") if name in self.common else self.get_parameter(name)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.factor("A").T          # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.factor("B").T)          # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.factor("B") @ self.factor("A") * self.scale     # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 64, alpha: float = 16.0, dropout: float = 0.1, share: str = "first",
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put a correction with shared factors beside every targeted weight."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        shared = Factors(sites[0].d_in, sites[0].d_out, r=r, names=SHARED[share], suffix="_s")
        kit.attach(model, f"sharelora.{role.replace('.', '_')}", shared)
        for site in sites:
            child = ShareLoRA(shared, site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, share=share)
            kit.attach(site, "sharelora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "sharelora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return torch.cat([site.module(inputs["x"]) for site, _ in kit.at_sites(model, "sharelora", ShareLoRA)], dim=-1)
