"""Intruder-dimension reduction: weaken what a trained LoRA adds (shuttleworth2024illusion; hf_peft).

    W_0 + s B_0 A_0 = U S V^T,   I = leading j whose |U_0^T U_j| are all below the threshold,   s = alpha / r
    s B A = s B_0 A_0 - (1 - kept) sum over I of S_j U_j V_j^T,   cut off at rank r

Given: A_0 (r, d_in) and B_0 (d_out, r) of a trained LoRA, beside every targeted weight. `combine` computes A and B,
which take their places. Without an intruder they are the given ones. Nothing is trained. At inference the product is
added to W_0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _merging, lora


class Reduced(lora.LoRA):
    """The reduced adapter beside one weight."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, top_k: int, threshold: float, kept: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=0.0)
        nn.init.zeros_(self.A)
        self.requires_grad_(False)
        self.top_k, self.threshold, self.kept = top_k, threshold, kept

    @torch.no_grad()
    def reduce(self, weight: Tensor, a: Tensor, b: Tensor) -> None:
        """Reduce the factors A_0 (r, d_in) and B_0 (d_out, r) of a LoRA beside a weight (d_out, d_in)."""
        change = self.excess(weight, a, b)
        if change is None:
            self.A.copy_(a)
            self.B.copy_(b)
            return
        torch.addmm(change, b.to(change), a.to(change), beta=-1 / self.scale, out=change)
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        r = len(self.A)
        root = s[:r].sqrt()
        self.B.copy_(u[:, :r].mul_(root))
        self.A.copy_(v[:r].mul_(root[:, None]))

    def excess(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
        """Return what is taken from the adapted weight, (d_out, d_in); None if there is no intruder."""
        cosines, (u, s, v) = self.cosines(weight, a, b)
        s = torch.where(cosines < self.threshold, (1 - self.kept) * s[: self.top_k], 0)
        return u[:, : len(s)].mul_(s) @ v[: len(s)] if s.any() else None

    def cosines(self, weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return the largest cosine of each leading left singular vector, (top_k), and the decomposition."""
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        before = torch.linalg.svd(weight, full_matrices=False).U            # (d_out, n)
        u, s, v = torch.linalg.svd(
            torch.addmm(weight, b.to(weight), a.to(weight), alpha=self.scale), full_matrices=False
        )
        return (u[:, : self.top_k].T @ before).abs_().amax(1), (u, s, v)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, top_k: int = 10, threshold: float = 0.5, kept: float = 0.75,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a place for an adapter beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Reduced(site.d_in, site.d_out, r=r, alpha=alpha, top_k=top_k, threshold=threshold, kept=kept)
        kit.attach(site, "intruder_reduction", child)
    return model


def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Reduce the factors of one trained LoRA, which has the same rank and targets."""
    assert len(inputs) == 1, f"found {len(inputs)} inputs, expected 1"
    for site, child in kit.at_sites(model, "intruder_reduction", Reduced):
        first, second = _merging.pair(child, "intruder_reduction")
        child.reduce(site.weight, inputs[0][first], inputs[0][second])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the reduced product to the weights."""
    return lora.merge(model, name="intruder_reduction")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Examine a recorded adapter; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "intruder_reduction", Reduced)
    cosines, _ = child.cosines(site.weight.detach(), inputs["A_0"], inputs["B_0"])
    return {"output": cosines, "intruders": (cosines < child.threshold).sum()}
