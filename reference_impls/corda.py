"""CorDA: context-oriented decomposition adaptation (yang2024corda).

    W_0 C = U S V^T with C = E[x x^T],   W_0 = U S V^T C^-1,   s B_0 A_0 = r of these parts
    h = W_0 x + s (B A - B_0 A_0) x,   s = alpha / r

Trained: A (r, d_in) and B (d_out, r). `calibrate` starts them from the inputs of every targeted module on samples of
data: the r largest parts for data of the task itself ("ipm", to learn it faster), or the r smallest for data whose
knowledge must stay ("kpm"). The start B_0 A_0 depends on the data and is stored. At inference the difference is added
to W_0.

As in the authors' code, each sample (one forward pass) is divided by the magnitude of its largest signed entry, and C
is the mean of x^T x over samples, summed over positions. C is damped by 0.01 of its mean diagonal, and the damping is
doubled until the computed inverse is accurate. The authors take B_0 A_0 out of the weight; here it is subtracted
beside it.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora

DAMPING = 0.01
INVERSE_ERROR = 0.05


class CorDA(_starts.Anchored):
    """The correction beside one weight, started from the weight and its inputs together."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, corda_method: str):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.kept = slice(None, r) if corda_method == "ipm" else slice(-r, None)

    def orient(self, weight: Tensor, context: Tensor) -> None:
        """Start from a weight (d_out, d_in) and the second moments (d_in, d_in) of what it reads."""
        context, inverse = damped(context)
        u, s, v = torch.linalg.svd(weight @ context, full_matrices=False)
        root = (s[self.kept] / self.scale).sqrt()
        self.start(u[:, self.kept] * root, root[:, None] * (v[self.kept] @ inverse))


def damped(context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped second moments and their inverse. The damping doubles until the inverse is accurate.

    Raises ValueError for moments that no damping makes invertible.
    """
    if not bool(context.isfinite().all()):
        raise ValueError("a layer reads zeros alone, or numbers that are not finite; there is nothing to start from")
    one, damping = torch.eye(len(context)).to(context), DAMPING
    while True:
        found = context + damping * context.diagonal().mean() * one
        inverse = torch.linalg.inv(found)
        if torch.dist(found @ inverse, one) < INVERSE_ERROR:
            return found, inverse
        damping *= 2


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
    """Start all factors from the inputs of the losses' forward passes: one sample each, 256 in the authors' script."""
    pairs = list(kit.at_sites(model, "corda", CorDA))
    moments: dict[nn.Module, Tensor] = {}
    samples: dict[nn.Module, int] = {site.module: 0 for site, _ in pairs}

    def see(host: nn.Module, x: Tensor) -> None:
        x = x / x.max().abs()
        moments[host] = moments.get(host, torch.zeros(()).to(x)) + x.T @ x
        samples[host] += 1

    _starts.read(list(samples), losses, see)
    for site, child in pairs:
        child.orient(site.weight.detach(), moments[site.module] / samples[site.module])
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the factors have learned to the weights."""
    return lora.merge(model, name="corda")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. A copy of the model is started from `data`."""
    [(site, _)] = kit.at_sites(model, "corda", CorDA)
    output: Tensor = site.module(inputs["x"])
    started = copy.deepcopy(model)
    host = started.get_submodule(site.path)
    calibrate(started, (host(sample) for sample in inputs["data"]))
    [(_, child)] = kit.at_sites(started, "corda", CorDA)
    product = child.scale * child.B @ child.A
    return {"output": output, "product": product, "sizes_A": child.A.abs(), "sizes_B": child.B.abs()}
