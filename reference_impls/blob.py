"""BLoB: Bayesian low-rank adaptation by backpropagation (wang2024blob; code_bayesian_peft).

    h = W_0 x + (alpha / r) B (A x + t * ((s * E) (u * x))),    s = rho^2,    E normal,    t and u random signs

Trained: LoRA's A (r, d_in) and B (d_out, r) beside every targeted weight, and rho (r, d_in), the root of the standard
deviation of each entry of A. While training, E is drawn once for each module and step, and the signs t (r) and u (d_in)
for each token, so that tokens see nearly independent weights. At inference the mean A is used, and its product with B
is added to W_0. A training loop takes steps on `divergence(model)` too, which keeps A's distribution near its prior.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class BLoB(kit.Child):
    """The correction beside one weight of shape (d_out, d_in), with a distribution over its first factor."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, eps: float):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.rho = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.uniform_(self.rho, eps / math.sqrt(2), eps)
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def draws(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw E (r, d_in), and the signs u (..., d_in) and t (..., r)."""
        signs = [torch.empty(*x.shape[:-1], n, dtype=x.dtype, device=x.device).uniform_(-1, 1).sign()
                 for n in reversed(self.A.shape)]
        return torch.randn_like(self.A), signs[0], signs[1]

    def noise(self, x: Tensor) -> Tensor:
        """Return what a draw of the first factor adds to its output, (..., r)."""
        e, u, t = self.draws(x)
        return ((x * u) @ (self.rho.square() * e).T) * t

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x)
        low: Tensor = x @ self.A.T                                  # (..., d_in) -> (..., r)
        if self.training:
            low = low + self.noise(x)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A * self.scale                         # (d_out, d_in)


def divergence(model: nn.Module, *, beta: float = 0.2) -> Tensor:
    """Return the Kullback-Leibler divergence of A from a normal prior of deviation beta, over all weights."""
    total = torch.zeros(())
    for _, child in kit.at_sites(model, "blob", BLoB):
        sigma, tiny = child.rho.square().double(), 1e-6
        each = (sigma.square() + child.A.double().square()) / (2 * beta**2 + tiny)
        total = total + (math.log(beta + tiny) - (sigma + tiny).log() + each - 0.5).sum()
    return total


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, eps: float = 0.05,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a correction with a distribution beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "blob", BLoB(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, eps=eps))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the means to the weights."""
    return kit.fold(model, "blob")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module with recorded draws, and its divergence; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "blob", BLoB)
    child.draws = lambda x: (inputs["e"], inputs["u"], inputs["t"])     # type: ignore[method-assign]
    return {"output": site.module(inputs["x"]), "divergence": divergence(model)}
