"""PVeRA: probabilistic vector-based random matrix adaptation (fillioux2025pvera; code_pvera).

    h = W_0 x + alpha b * (B z),    (mu, s) = d * (A x),    z = mu + exp(s / 2) eps in training, mu at inference

A (2 r, d_in) and B (d_out, r) are random and frozen. All layers share one pair for each role, for example one for the
queries and one for the values. Trained: the vectors d (2 r) and b (d_out) of each weight; b starts at zero. A seed
stores A and B. At inference the mean's part is added to W_0. The authors add the divergence of z from the standard
normal distribution to the loss, with a small factor; the training loop takes it from `divergence`.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import vera


class PVeRA(vera.VeRA):
    """The correction beside one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, shared: vera.Shared, *, alpha: float):
        super().__init__(d_in, d_out, shared, d_initial=torch.empty(()).uniform_(1e-5, 1).item())
        self.alpha = alpha

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the log-variance of the narrow activation."""
        mean, log_variance = (self.lambda_d * (x @ self.shared.A.T)).chunk(2, -1)   # (..., d_in) -> (..., r) each
        return mean, log_variance

    def divergence(self, x: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the standard normal distribution, averaged over r and all positions."""
        mean, log_variance = self.normal(x)
        return -(1 + log_variance - mean**2 - log_variance.exp()).mean() / 2

    def change(self, z: Tensor) -> Tensor:
        return self.alpha * self.lambda_b * (z @ self.shared.B.T)                   # (..., r) -> (..., d_out)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = self.normal(x)
        return y + self.change(sample(mean, log_variance, torch.randn_like(mean)) if self.training else mean)

    def delta(self) -> Tensor:
        d, a = self.lambda_d.chunk(2)[0], self.shared.A.chunk(2)[0]                 # the mean's halves
        return self.alpha * self.lambda_b[:, None] * self.shared.B @ (d[:, None] * a)


def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return a normal sample with this mean and variance, from standard normal noise."""
    return mean + (log_variance / 2).exp() * noise


def apply(
    model: nn.Module, *, r: int = 256, alpha: float = 16.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, draw a random pair for every role, and put scaled copies of it beside the role's weights."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        shared = vera.Shared(*draw(r, sites[0].d_in, sites[0].d_out))
        kit.attach(model, f"pvera.{role.replace('.', '_')}", shared)
        for site in sites:
            kit.attach(site, "pvera", PVeRA(site.d_in, site.d_out, shared, alpha=alpha))
    return model


def draw(r: int, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """A random pair. The bounds are those of the authors' code, which draws the transposed factors."""
    a, b = (6 / (2 * r)) ** 0.5, (6 / d_out) ** 0.5
    return torch.empty(2 * r, d_in).uniform_(-a, a), torch.empty(d_out, r).uniform_(-b, b)


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections' means to the weights."""
    return kit.fold(model, "pvera")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. The draws are recorded ones in training."""
    x = inputs["x"]
    children = list(kit.at_sites(model, "pvera", PVeRA))
    outputs = {}
    for block in kit.blocks(model, "attention"):
        for role, site in block.sites.items():
            outputs[role] = nn.functional.linear(x, site.weight, site.bias)
    for site, child in children:
        mean, log_variance = child.normal(x)
        noise = inputs[f"noise_{site.role.rpartition('.')[2]}"]
        z = sample(mean, log_variance, noise) if child.training else mean
        outputs[site.role] = outputs[site.role] + child.change(z)
    divergence = torch.stack([child.divergence(x) for _, child in children]).mean()
    output = torch.cat([outputs[role] for role in ("attn.q", "attn.k", "attn.v")], -1)
    return {"output": output, "divergence": divergence}
