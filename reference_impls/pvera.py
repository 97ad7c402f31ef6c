"""PVeRA: probabilistic vector-based random matrix adaptation (fillioux2025pvera).

    h = W_0 x + b * (B z),    (mu, s) = d * (A x),    z = mu + exp(s / 2) eps in training, mu at inference

A (2 r, d_in) and B (d_out, r) are random, frozen and the same for every targeted weight, as in VeRA. Trained: the
vectors d (2 r) and b (d_out) of each weight; b starts at zero. A seed stores A and B. At inference the mean's part is
added to W_0. Like peft's, this leaves it to the training loop to keep z near a standard normal, if it wants to.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import vera


class PVeRA(vera.VeRA):
    """The correction beside one weight of shape (d_out, d_in)."""

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = self.lambda_d * (x @ self.shared.A[:, : self.d_in].T)             # (..., d_in) -> (..., 2 r)
        z, log_variance = low.chunk(2, -1)                                      # (..., r) each
        if self.training:
            z = z + (log_variance / 2).exp() * torch.randn_like(z)
        return y + self.lambda_b * (z @ self.shared.B[: self.d_out].T)          # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        d, a = self.lambda_d.chunk(2)[0], self.shared.A.chunk(2)[0]             # the mean's halves
        return self.lambda_b[:, None] * self.shared.B[: self.d_out] @ (d[:, None] * a[:, : self.d_in])


def apply(
    model: nn.Module, *, r: int = 256, d_initial: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, draw the random pair, and put scaled copies of it beside every targeted weight."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    a, b = (2 * r, max(site.d_in for site in sites)), (max(site.d_out for site in sites), r)
    shared = vera.Shared(vera.random(*a), vera.random(*b))
    kit.attach(model, "pvera", shared)
    for site in sites:
        kit.attach(site, "pvera", PVeRA(site.d_in, site.d_out, shared, d_initial=d_initial))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections' means to the weights."""
    return vera.merge(model, "pvera")
