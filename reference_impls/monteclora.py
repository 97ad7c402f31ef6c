"""MonteCLoRA: Bayesian reparameterisation of low-rank adaptation (seth2024monteclora; peft's MontecloraSampler).

    h = W_0 x + (alpha / r) B (A + s sum_n w_n diag(v)^(1/2) Z_n) x        while training, else without the noise
    Z_n standard normal, v = e^(2 rho) times the diagonal of a Wishart draw (chi-square with r degrees of freedom),
    w = softmax of a Gaussian with the mean and variance of log Dirichlet(e^kappa)

Trained beside every targeted weight: A (r, d_in), B (d_out, r), rho (r), kappa (num_samples). At inference the mean is
kept, a LoRA, and is added to W_0. A training loop adds `penalty(model)` to its loss: divergences from the priors, and
the sum of w_n^2, which is least when all samples count alike.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Chi2, Dirichlet, kl_divergence

from . import _kit as kit
from .lora import LoRA

TINY_VARIANCE = 1e-3
TINY_LOGIT_VARIANCE = 1e-6


class Sampled(LoRA):
    """The correction beside one weight, and the noise on its first factor."""

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, num_samples: int, sample_scaler: float
    ):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.rho = nn.Parameter(torch.rand(r))
        self.kappa = nn.Parameter(torch.rand(num_samples))
        self.sample_scaler = sample_scaler
        self.chi: Tensor | None = None          # the last draw
        self.z: Tensor | None = None            # the last draw of the samples' weights

    @property
    def variance(self) -> Tensor:
        """Of the noise for each rank dimension, as drawn last; one before any draw."""
        if self.chi is None:
            return torch.ones_like(self.rho)
        return ((2 * self.rho).exp() * self.chi).clamp(min=TINY_VARIANCE)

    def weights(self, z: Tensor) -> Tensor:
        """How the samples are weighed, (num_samples,), of a standard normal draw of that size."""
        self.z = z
        alpha, n = self.kappa.exp(), len(self.kappa)
        variance = (1 - 2 / n) / alpha + (1 / alpha).sum() / n**2
        width = (variance.clamp(min=TINY_LOGIT_VARIANCE) + TINY_LOGIT_VARIANCE).sqrt()
        return (self.kappa - self.kappa.mean() + width * z).softmax(0)

    def noise(self) -> Tensor:
        """A draw of what is added to A, (r, d_in)."""
        r = len(self.rho)
        chi = Chi2(self.rho.new_tensor(float(r))).sample((r,))
        samples = torch.randn(len(self.kappa), *self.A.shape).to(self.A)            # (num_samples, r, d_in)
        return self.mixed(chi, samples, self.weights(torch.randn_like(self.kappa)))

    def mixed(self, chi: Tensor, samples: Tensor, weights: Tensor) -> Tensor:
        """The noise (r, d_in) of chi-square draws (r), normal draws (num_samples, r, d_in) and the samples' weights."""
        self.chi = chi
        mean = torch.tensordot(weights, samples, 1)                                 # (r, d_in)
        noise: Tensor = self.sample_scaler * self.variance.sqrt()[:, None] * mean
        return noise

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        first = self.A + self.noise() if self.training else self.A
        low: Tensor = self.dropout(x) @ first.T                     # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)


def penalty(
    model: nn.Module, *, dirichlet_prior: float = 1.0, weight: float = 1e-5, concentration: float = 1.0
) -> Tensor:
    """The mean over the modules of two terms: `weight` times the divergence of the noise's distributions from their
    priors, and `concentration` times the sum of the squared weights of the samples."""
    children = [child for _, child in kit.at_sites(model, "monteclora", Sampled)]
    terms = [weight * divergence(c, dirichlet_prior) + concentration * squares(c) for c in children]
    return torch.stack(terms).mean()


def squares(child: Sampled) -> Tensor:
    """The sum of the squared weights that were drawn last; before any draw all samples weigh alike."""
    if child.z is None:
        return child.kappa.new_tensor(1 / len(child.kappa))
    return (child.weights(child.z) ** 2).sum()


def divergence(child: Sampled, prior: float) -> Tensor:
    """The sum of the three divergences."""
    shares, widths, spread = divergences(child, prior)
    return shares + widths + spread


def divergences(child: Sampled, prior: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the weights from Dirichlet(prior), of the widths from the Wishart distribution with the unit scale, and of
    the samples with the variance that was drawn last from the standard normal distribution."""
    concentration, r = child.kappa.exp(), len(child.rho)
    shares: Tensor = kl_divergence(Dirichlet(concentration), Dirichlet(torch.full_like(concentration, prior)))
    widths = 0.5 * r * ((2 * child.rho).exp() - 2 * child.rho - 1).sum()
    variance = child.variance
    spread = 0.5 * len(child.kappa) * (variance - variance.log() - 1).sum()
    return shares, widths, spread


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 64.0, dropout: float = 0.05, num_samples: int = 4,
    sample_scaler: float = 2.5e-5,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a correction with noise beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Sampled(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout,
            num_samples=num_samples, sample_scaler=sample_scaler,
        )
        kit.attach(site, "monteclora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the means to the weights."""
    return kit.fold(model, "monteclora")


def finish(model: nn.Module) -> nn.Module:
    """End training: what described the noise goes."""
    for _, child in kit.at_sites(model, "monteclora", Sampled):
        del child.rho, child.kappa
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs and draws, or draw itself; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "monteclora", Sampled)
    if "draws" in inputs:
        drawn = torch.stack([child.noise().detach() for _ in range(int(inputs["draws"]))])     # (draws, r, d_in)
        return {"mean": drawn.mean((0, 2)), "power": drawn.square().mean((0, 2))}
    weights = child.weights(inputs["logits"])
    noise = child.mixed(inputs["chi"], inputs["normal"], weights)
    shares, widths, spread = divergences(child, 1.0)
    found = {"noise": noise, "weights": weights, "shares": shares, "widths": widths, "spread": spread}
    found["squares"] = squares(child)
    return {"output": site.module(inputs["x"]), **found}
