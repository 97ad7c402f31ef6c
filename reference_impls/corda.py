"""CorDA: context-oriented decomposition adaptation (yang2024corda).

    W_0 C = U S V^T with C = E[x x^T],   W_0 = U S V^T C^-1,   s B_0 A_0 = r of these parts
    h = W_0 x + s (B A - B_0 A_0) x,   s = alpha / r

Trained: A (r, d_in) and B (d_out, r), which `calibrate` starts from what every targeted module reads on a few samples
of data: the r largest parts of the task's own data ("ipm", to learn it faster) or the r smallest of data whose
knowledge shall stay ("kpm"). The start B_0 A_0 depends on the data and is kept. At inference the difference is added
to W_0. In the authors' code and in peft B_0 A_0 is taken out of the weight, every sample is divided by its largest
number, and the damping of C (0.01 of its mean diagonal) is doubled until the inverse is accurate.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _informed, lora
from . import _kit as kit

DAMPING = 0.01


class CorDA(_informed.Anchored):
    """The correction beside one weight, started from the weight and its inputs together."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, corda_method: str):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.kept = slice(None, r) if corda_method == "ipm" else slice(-r, None)

    def orient(self, weight: Tensor, context: Tensor) -> None:
        """Start from a weight (d_out, d_in) and the second moments (d_in, d_in) of what it reads."""
        context = context + DAMPING * context.diagonal().mean() * torch.eye(len(context)).to(context)
        u, s, v = torch.linalg.svd(weight @ context, full_matrices=False)
        root = (s[self.kept] / self.scale).sqrt()
        right = torch.linalg.solve(context, v[self.kept].T).T           # (r, d_in); the moments are symmetric
        self.start(u[:, self.kept] * root, root[:, None] * right)


def apply(
    model: nn.Module, *, r: int = 128, alpha: float = 128.0, dropout: float = 0.0, corda_method: str = "ipm",
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it its start."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = CorDA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, corda_method=corda_method)
        kit.attach(site, "corda", child)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Start all factors from the inputs that the losses' forward passes show, some 256 samples in the paper."""
    pairs = list(kit.at_sites(model, "corda", CorDA))
    moments: dict[nn.Module, Tensor] = {}

    def see(host: nn.Module, x: Tensor) -> None:
        moments[host] = moments.get(host, torch.zeros(()).to(x)) + x.T @ x / len(x)

    _informed.read(list(dict.fromkeys(site.module for site, _ in pairs)), losses, see)
    for site, child in pairs:
        child.orient(site.weight.detach(), moments[site.module])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the factors have learned to the weights."""
    return lora.merge(model, name="corda")
