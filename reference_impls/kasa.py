"""KaSA: knowledge-aware singular-value adaptation (wang2025kasa).

    W_0 = U S V^T,    W_world = W_0 without its r smallest singular values
    h = W_world x + (alpha / r) B diag(Sigma) A x

Trained: A (r, d_in), Sigma (r) and B (d_out, r). A training loop adds `penalty(model)` to its loss, which keeps Sigma
small and the factors near orthonormal. The weight loses its smallest parts, for good: the same are lost when the
method is applied anew. At inference the product is added to what is left. In the authors' code modules with more
inputs than outputs lose fewer or none, and the penalty is on the Gram matrices of the other side; as in peft here.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class KaSA(LoRA):
    """A correction with singular values of its own."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.Sigma = nn.Parameter(torch.randn(r))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.Sigma * (self.dropout(x) @ self.A.T)             # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.B * self.Sigma) @ self.A * self.scale          # (d_out, d_in)


def least(weight: Tensor, r: int) -> Tensor:
    """The part of a weight that belongs to its r smallest singular values."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    part: Tensor = (u[:, -r:] * s[-r:]) @ v[-r:]
    return part


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, take the least part out of every targeted weight, and put a correction in its place.

    Raises ValueError where nothing of a weight would be left.
    """
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if r >= min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} leaves nothing of a weight of {site.d_out} x {site.d_in}")
        with torch.no_grad():
            site.weight.sub_(least(site.weight, r))
        kit.attach(site, "kasa", KaSA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def penalty(model: nn.Module, *, beta: float = 1e-4, gamma: float = 1e-3) -> Tensor:
    """beta |Sigma|^2 + gamma (|B^T B - I| + |A A^T - I|), the mean over all weights (their sum in peft)."""
    terms = []
    for _, child in kit.at_sites(model, "kasa", KaSA):
        grams = child.B.T @ child.B, child.A @ child.A.T            # (r, r)
        skew = [torch.linalg.norm(gram - torch.eye(len(gram)).to(gram)) for gram in grams]
        terms.append(beta * (child.Sigma**2).sum() + gamma * torch.stack(skew).sum())
    return torch.stack(terms).mean()


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to what is left of the weights."""
    return kit.fold(model, "kasa")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "kasa", KaSA)
    output = model.get_submodule(site.path)(inputs["x"])
    return {"output": output, "sizes": penalty(model, gamma=0.0), "penalty": penalty(model)}
