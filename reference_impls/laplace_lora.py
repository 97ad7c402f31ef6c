"""Laplace-LoRA: a normal distribution over the factors of a trained LoRA (yang2024laplacelora).

    W | data ~ N(W_MAP, (E[x x^T] (x) sum g g^T + lambda I)^-1)       for W = A and W = B of every pair
    f(x)     ~ N(f_MAP(x), J (...)^-1 J^T)                            linearised at W_MAP

Trained: A (r, d_in) and B (d_out, r), as in LoRA. Afterwards `fit` passes over the data once: x is what a factor
reads, g the gradient of an output at what it says, over the outputs weighted by the curvature of the likelihood.
`tune_prior` chooses lambda by the marginal likelihood, `predict` gives means and covariances, `probabilities`
averages the softmax. All is needed at inference. Of the factors as wide as the model the n_kfac largest eigenvectors
are kept, each times the root of its eigenvalue; the official code keeps whole matrices. As there,
x x^T is summed over the positions of a sequence, and divided by the number of examples.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import _kit as kit
from . import lora

TINY = torch.finfo(torch.float32).tiny
Key = tuple[int, str]           # a pair, and which of its factors


class Factors(lora.LoRA):
    """A pair with the curvature of its two factors."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, n_kfac: int):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        for name, shape in {"in_A": (d_in, n_kfac), "out_A": (r, r), "in_B": (r, r), "out_B": (d_out, n_kfac)}.items():
            self.register_buffer(name, torch.zeros(shape))
        self.records = False
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}     # what each factor read and said

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x)
        low = x @ self.A.T                                          # (..., d_in) -> (..., r)
        up = low @ self.B.T                                         # (..., r) -> (..., d_out)
        self.seen = {"A": (x, low), "B": (low, up)} if self.records else {}
        return y + self.scale * up

    def uncertain(self) -> list[str]:
        return [name for name in ("A", "B") if getattr(self, name).requires_grad]

    def spectrum(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvectors (out, k) and (in, l) of one factor's curvature, and its eigenvalues (k, l)."""
        said, read = self.get_buffer(f"out_{name}"), self.get_buffer(f"in_{name}")
        s, t = said.square().sum(0), read.square().sum(0)
        return said / s.clamp(min=TINY).sqrt(), read / t.clamp(min=TINY).sqrt(), torch.outer(s, t)


class Prior(kit.Child):
    """The precision lambda of every entry before data are seen."""

    def __init__(self, precision: float):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([precision]), requires_grad=False)


def factors(model: nn.Module) -> list[Factors]:
    return [child for child in kit.attached(model, "laplace_lora") if isinstance(child, Factors)]


def prior(model: nn.Module) -> nn.Parameter:
    [child] = [child for child in kit.attached(model, "laplace_lora") if isinstance(child, Prior)]
    return child.prior


def likelihood_root(f: Tensor, noise: float | None) -> Tensor:
    """L with L L^T the curvature of -log p(y | f), (n, outputs, outputs): of a softmax, or of normal noise."""
    if noise is not None:
        return torch.eye(f.shape[1]).to(f).expand(len(f), -1, -1) / noise
    p = f.detach().softmax(-1)
    return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]


def walk(model: nn.Module, outputs: Iterable[Tensor]) -> Iterator[tuple[Tensor, list[Factors]]]:
    """Each batch (n, outputs), with the pairs that have recorded what they read and said for it."""
    children = factors(model)
    for child in children:
        child.records = True
    for f in outputs:
        yield f, children
    for child in children:
        child.records, child.seen = False, {}


def sides(children: list[Factors], f: Tensor, weights: Tensor) -> dict[Key, tuple[Tensor, Tensor]]:
    """What each factor reads, and the gradient of the weighted outputs at what it says: (n, positions, in or out)."""
    seen = {(i, name): child.seen[name] for i, child in enumerate(children) for name in child.uncertain()}
    gradients = torch.autograd.grad((f * weights).sum(), [said for _, said in seen.values()], retain_graph=True)

    def rows(tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(len(f), -1, tensor.shape[-1])

    return {key: (rows(read), rows(g)) for (key, (read, _)), g in zip(seen.items(), gradients, strict=True)}


def fit(model: nn.Module, outputs: Iterable[Tensor], *, noise: float | None = None) -> nn.Module:
    """Measure the curvature at the trained factors. `outputs` computes the model's, (n, outputs), batch by batch."""
    sums: dict[Key, tuple[Any, Any, int]] = {}
    for f, children in walk(model, outputs):
        for column in likelihood_root(f, noise).unbind(-1):
            for key, (x, g) in sides(children, f, column).items():
                read, said, rows = sums.get(key, (0, 0, 0))
                read, said = (s + torch.einsum("nti,ntj->ij", t, t) for s, t in ((read, x), (said, g)))
                sums[key] = read, said, rows + len(x)
    for (i, name), (read, said, rows) in sums.items():
        for side, matrix in ((f"in_{name}", read / rows), (f"out_{name}", said)):
            buffer = factors(model)[i].get_buffer(side)
            values, vectors = torch.linalg.eigh(matrix)                             # rising
            best = (vectors * values.clamp(min=0).sqrt())[:, -buffer.shape[1] :]
            buffer.zero_()[:, : best.shape[1]] = best
    return model


def evidence(model: nn.Module, log_likelihood: float, precision: Tensor) -> Tensor:
    """The marginal likelihood's logarithm, from that of the likelihood at the trained factors."""
    total = torch.as_tensor(log_likelihood).to(precision)
    for child in factors(model):
        for name in child.uncertain():
            _, _, eigenvalues = child.spectrum(name)
            squares = getattr(child, name).detach().square().sum()
            total = total - 0.5 * (precision * squares + (eigenvalues / precision).log1p().sum())
    return total


def tune_prior(model: nn.Module, log_likelihood: float, *, steps: int = 100, lr: float = 0.1) -> float:
    """Choose the prior's precision by climbing the marginal likelihood."""
    log = nn.Parameter(prior(model).detach().log())
    optimiser = torch.optim.Adam([log], lr=lr, maximize=True)
    for _ in range(steps):
        optimiser.zero_grad()
        evidence(model, log_likelihood, log.exp()).sum().backward()
        optimiser.step()
    prior(model).data = log.detach().exp()
    return math.exp(log.item())


def predict(model: nn.Module, outputs: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean (n, outputs) and covariance (n, outputs, outputs) of the linearised model's outputs, batch by batch."""
    precision, found = prior(model), []
    for f, children in walk(model, outputs):
        per_output = [sides(children, f, unit) for unit in torch.eye(f.shape[1]).to(f)]
        covariance = f.new_zeros(*f.shape, f.shape[1])
        for i, child in enumerate(children):
            for name in child.uncertain():
                pairs = [output[i, name] for output in per_output]
                j = torch.stack([torch.einsum("nto,nti->noi", g, x) for x, g in pairs], 1)      # (n, outputs, out, in)
                u, v, eigenvalues = child.spectrum(name)
                inside = torch.einsum("ncoi,ok,il->nckl", j, u, v)                  # J in the eigenvectors' basis
                known = 1 / precision - 1 / (eigenvalues + precision)               # what the data took away
                covariance += torch.einsum("ncoi,ndoi->ncd", j, j) / precision
                covariance -= torch.einsum("nckl,kl,ndkl->ncd", inside, known, inside)
        found.append((f.detach(), covariance))
    return found


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Measure, tune and predict on recorded examples; for the golden vectors.

    The logits of an example are the layer's outputs, averaged over its positions.
    """
    [(site, child)] = kit.at_sites(model, "laplace_lora", Factors)
    output: Tensor = site.module(inputs["x"])                           # (examples, positions, d_out)
    fit(model, (site.module(x[None]).mean(1) for x in inputs["x"]))
    first = inputs["x"][:1]
    found = {name: child.get_buffer(name) for name in ("in_A", "out_A", "in_B", "out_B")}
    [(mean, covariance)] = predict(model, (site.module(x).mean(1) for x in (first,)))
    likelihood = -float(cross_entropy(output.detach().mean(1), inputs["labels"], reduction="sum"))
    before = evidence(model, likelihood, prior(model)).squeeze()
    tuned = tune_prior(model, likelihood, steps=int(inputs["steps"]))
    return {
        "output": output, "mean": mean, "covariance": covariance, "evidence": before, "precision": torch.tensor(tuned),
        **{name: root @ root.T for name, root in found.items()},
    }


def probabilities(mean: Tensor, covariance: Tensor, samples: int = 1000) -> Tensor:
    """The softmax averaged over normal logits, (n, outputs)."""
    jitter = 1e-6 * torch.eye(mean.shape[1]).to(mean)
    logits = torch.distributions.MultivariateNormal(mean, covariance + jitter).sample(torch.Size([samples]))
    return logits.softmax(-1).mean(0)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.1, n_kfac: int = 10,
    precision: float = 1.0, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a pair beside every targeted weight, with room for its curvature."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Factors(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, n_kfac=n_kfac)
        kit.attach(site, "laplace_lora", child)
    kit.attach(model, "laplace_lora", Prior(precision))
    return model
