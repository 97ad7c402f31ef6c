"""Laplace-LoRA: a normal distribution over the factors of a trained LoRA (yang2024laplacelora).

    W | data ~ N(W_MAP, (X (x) G + lambda I)^-1),    X = E[sum x x^T],  G = sum g g^T,    for W = A and W = B of a pair
    f(x)     ~ N(f_MAP(x), J (X (x) G + lambda I)^-1 J^T)    linearised at W_MAP, (x) the Kronecker product

Trained: A (r, d_in) and B (d_out, r), as in LoRA. Then `fit` passes over the data once. x is an input of a factor. g is
a gradient of the model's outputs at the factor's output, weighted by the curvature of the likelihood. As in the
authors' code, x x^T is summed over the positions of a sequence and divided by the number of examples. `tune_prior`
chooses the prior's precision lambda by the marginal likelihood, `predict` returns means and covariances of outputs, and
`probabilities` averages the softmax over them.

Stored and kept at inference: A, B, lambda, and square roots of X and G. The roots of width r are whole. Those as wide
as the model keep the n_kfac largest eigenvectors, each times the root of its eigenvalue. The authors' code stores whole
matrices there.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import _kit as kit
from . import lora

TINY = torch.finfo(torch.float32).tiny


class Factors(lora.LoRA):
    """A low-rank pair with the curvature of its two factors. The names of the factors are A and B."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, n_kfac: int):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        for name, shape in {"in_A": (d_in, n_kfac), "out_A": (r, r), "in_B": (r, r), "out_B": (d_out, n_kfac)}.items():
            self.register_buffer(name, torch.zeros(shape))
        self.records = False
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}            # input and output of each factor while it records

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.dropout(x)
        low = x @ self.A.T                                          # (..., d_in) -> (..., r)
        up = low @ self.B.T                                         # (..., r) -> (..., d_out)
        self.seen = {"A": (x, low), "B": (low, up)} if self.records else {}
        return y + self.scale * up

    def uncertain(self) -> list[str]:
        return [name for name in ("A", "B") if getattr(self, name).requires_grad]

    def keep(self, name: str, matrix: Tensor) -> None:
        """Set the buffer to the best root of the matrix of its width: buffer @ buffer.T approximates the matrix."""
        root = self.get_buffer(name)
        values, vectors = torch.linalg.eigh(matrix)                                 # smallest eigenvalue first
        best = (vectors * values.clamp(min=0).sqrt())[:, -root.shape[1] :]
        root.zero_()[:, : best.shape[1]] = best

    def spectrum(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the eigenvectors (out, k) and (in, l) of one factor's curvature, and its eigenvalues (k, l)."""
        said, read = self.get_buffer(f"out_{name}"), self.get_buffer(f"in_{name}")
        s, t = said.square().sum(0), read.square().sum(0)
        return said / s.clamp(min=TINY).sqrt(), read / t.clamp(min=TINY).sqrt(), torch.outer(s, t)


class Prior(kit.Child):
    """The prior's precision lambda, the same for every entry of every factor."""

    def __init__(self, precision: float):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([precision]), requires_grad=False)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.1, n_kfac: int = 10,
    precision: float = 1.0, targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and attach a pair, with buffers for its curvature, to every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Factors(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, n_kfac=n_kfac)
        kit.attach(site, "laplace_lora", child)
    kit.attach(model, "laplace_lora", Prior(precision))
    return model


def factors(model: nn.Module) -> list[tuple[Factors, str]]:
    """Return each uncertain factor: its pair and its name in the pair."""
    pairs = [child for child in kit.attached(model, "laplace_lora") if isinstance(child, Factors)]
    return [(pair, name) for pair in pairs for name in pair.uncertain()]


def prior(model: nn.Module) -> nn.Parameter:
    """Return the precision of the prior, one number for all entries of the factors."""
    [child] = [child for child in kit.attached(model, "laplace_lora") if isinstance(child, Prior)]
    return child.prior


def recorded(
    model: nn.Module, outputs: Iterable[Tensor], weights: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
    """Yield each batch of outputs f (n, k), and for every factor its inputs x and the gradients g at its outputs.

    `weights(f)`, (n, k, c), are the weights of c sums of outputs. g is (n, c, positions, out), with a gradient of each
    sum, and x is (n, positions, in).
    """
    uncertain = factors(model)
    for pair, _ in uncertain:
        pair.records = True
    for f in outputs:
        seen = [pair.seen[name] for pair, name in uncertain]
        columns = weights(f.detach()).movedim(-1, 0)                                                # (c, n, k)
        gradients = torch.autograd.grad(f, [said for _, said in seen], columns, is_grads_batched=True)
        yield f.detach(), [
            (x.detach().reshape(len(f), -1, x.shape[-1]), g.reshape(len(g), len(f), -1, g.shape[-1]).movedim(0, 1))
            for (x, _), g in zip(seen, gradients, strict=True)
        ]
    for pair, _ in uncertain:
        pair.records, pair.seen = False, {}


def likelihood_root(f: Tensor, noise: float | None) -> Tensor:
    """Return L (n, k, k), where L L^T is the curvature of -log p(y | f): of a softmax, or of normal noise."""
    if noise is not None:
        return torch.eye(f.shape[1]).to(f).expand(len(f), -1, -1) / noise
    p = f.softmax(-1)
    return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]


def fit(model: nn.Module, outputs: Iterable[Tensor], *, noise: float | None = None) -> nn.Module:
    """Measure the curvature at the trained factors. `outputs` yields the model's outputs (n, k), batch by batch."""
    uncertain, examples = factors(model), 0
    sums: list[tuple[Any, Any]] = [(0, 0)] * len(uncertain)
    for f, sides in recorded(model, outputs, lambda f: likelihood_root(f, noise)):
        examples += len(f)
        for i, (x, g) in enumerate(sides):
            read, said = sums[i]
            sums[i] = read + torch.einsum("nti,ntj->ij", x, x), said + torch.einsum("ncto,nctp->op", g, g)
    for (pair, name), (read, said) in zip(uncertain, sums, strict=True):
        pair.keep(f"in_{name}", read / examples)
        pair.keep(f"out_{name}", said)
    return model


def evidence(model: nn.Module, log_likelihood: float, precision: Tensor) -> Tensor:
    """Return the logarithm of the marginal likelihood, given that of the likelihood at the trained factors."""
    total = torch.as_tensor(log_likelihood).to(precision)
    for pair, name in factors(model):
        _, _, eigenvalues = pair.spectrum(name)
        squares = getattr(pair, name).detach().square().sum()
        total = total - 0.5 * (precision * squares + (eigenvalues / precision).log1p().sum())
    return total


def tune_prior(model: nn.Module, log_likelihood: float, *, steps: int = 100, lr: float = 0.1) -> float:
    """Maximise the marginal likelihood over the prior's precision, set it, and return it."""
    log = nn.Parameter(prior(model).detach().log())
    optimiser = torch.optim.Adam([log], lr=lr, maximize=True)
    for _ in range(steps):
        optimiser.zero_grad()
        evidence(model, log_likelihood, log.exp()).sum().backward()
        optimiser.step()
    prior(model).data = log.detach().exp()
    return prior(model).item()


def predict(model: nn.Module, outputs: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the mean (n, k) and the covariance (n, k, k) of the linearised model's outputs, batch by batch."""
    precision, found = prior(model), []
    for f, sides in recorded(model, outputs, lambda f: torch.eye(f.shape[1]).to(f).expand(len(f), -1, -1)):
        covariance = f.new_zeros(*f.shape, f.shape[1])
        for (pair, name), (x, g) in zip(factors(model), sides, strict=True):
            j = torch.einsum("ncto,nti->ncoi", g, x)                                # the Jacobian of the outputs
            u, v, eigenvalues = pair.spectrum(name)
            inside = torch.einsum("ncoi,ok,il->nckl", j, u, v)                      # j in the basis of eigenvectors
            known = 1 / precision - 1 / (eigenvalues + precision)                   # by how much data reduce variance
            covariance += torch.einsum("ncoi,ndoi->ncd", j, j) / precision
            covariance -= torch.einsum("nckl,kl,ndkl->ncd", inside, known, inside)
        found.append((f, covariance))
    return found


def probabilities(mean: Tensor, covariance: Tensor, samples: int = 1000) -> Tensor:
    """Return the mean softmax (n, k) of normally distributed outputs."""
    jitter = 1e-6 * torch.eye(mean.shape[1]).to(mean)
    logits = torch.distributions.MultivariateNormal(mean, covariance + jitter).sample(torch.Size([samples]))
    return logits.softmax(-1).mean(0)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fit, tune and predict on recorded examples; for the golden vectors.

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
