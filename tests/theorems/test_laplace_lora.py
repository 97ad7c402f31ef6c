"""Laplace-LoRA: where Bayes' rule has a closed form it gives exactly that, and its intervals hold what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import laplace_lora

pytestmark = pytest.mark.torch
D_IN, D_OUT, R, SCALE = 7, 3, 4, 0.5


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D_IN, D_OUT, bias=False, dtype=torch.float64)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


@dataclass
class Regression:
    """y = W_0 x + s B A x + noise with A fixed, B normal with the prior's precision: linear, so Bayes is exact."""

    model: nn.Module
    site: kit.Site
    child: laplace_lora.Factors
    precision: float
    noise: float
    x: Tensor
    y: Tensor

    def features(self, x: Tensor) -> Tensor:
        return SCALE * x @ self.child.A.T.detach()                              # (n, r)

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        yield from (self.model(part) for part in x.split(5))

    def draw(self, x: Tensor, truth: Tensor) -> Tensor:
        mean = x @ self.site.weight.T + self.features(x) @ truth.T
        return mean.detach() + self.noise * torch.randn(len(x), D_OUT, dtype=torch.float64)

    @property
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean (d_out, r) and the covariance (r, r) that all rows of B share."""
        phi, beta = self.features(self.x), self.noise**-2
        covariance = torch.linalg.inv(beta * phi.T @ phi + self.precision * torch.eye(R, dtype=torch.float64))
        residual = self.y - self.x @ self.site.weight.T.detach()
        return beta * residual.T @ phi @ covariance, covariance


def regression(seed: int, *, n: int = 6, precision: float = 0.4, noise: float = 0.5, n_kfac: int = D_IN) -> Regression:
    torch.manual_seed(seed)
    model = Host()
    site = kit.Site(
        module=model.linear, path="linear", role="attn.q", stack="", layer=0, d_in=D_IN, d_out=D_OUT,
        start=0, stop=D_OUT, whole=True, transposed=False,
    )  # fmt: skip
    child = laplace_lora.Factors(D_IN, D_OUT, r=R, alpha=SCALE * R, dropout=0.0, n_kfac=n_kfac)
    kit.attach(site, "laplace_lora", child)
    kit.attach(model, "laplace_lora", laplace_lora.Prior(precision))
    nn.init.normal_(child.A)
    child.A.requires_grad_(False)
    task = Regression(model, site, child, precision, noise, torch.randn(n, D_IN, dtype=torch.float64), torch.empty(0))
    task.y = task.draw(task.x, torch.randn(D_OUT, R, dtype=torch.float64) / precision**0.5)
    child.B.data.copy_(task.posterior[0])                                       # LoRA trained to the end
    laplace_lora.fit(model, task.outputs(task.x), noise=noise)
    return task


def predicted(task: Regression, x: Tensor) -> tuple[Tensor, Tensor]:
    parts = laplace_lora.predict(task.model, task.outputs(x))
    return torch.cat([mean for mean, _ in parts]), torch.cat([covariance for _, covariance in parts])


@pytest.mark.parametrize("n", [1, 6, 40])
def test_the_predictive_is_that_of_exact_bayesian_regression(n: int) -> None:
    task = regression(0, n=n)
    x = torch.randn(11, D_IN, dtype=torch.float64)
    mean, covariance = predicted(task, x)
    b, shared = task.posterior
    phi = task.features(x)
    assert torch.allclose(mean, x @ task.site.weight.T + phi @ b.T)
    variance = torch.einsum("nr,rs,ns->n", phi, shared, phi)
    assert torch.allclose(covariance, variance[:, None, None] * torch.eye(D_OUT, dtype=torch.float64))


def test_fewer_eigenvectors_only_ever_widen_up_to_the_prior() -> None:
    x = torch.randn(11, D_IN, dtype=torch.float64)
    variances = []
    for n_kfac in (1, 2, 3):
        task = regression(1, n=40, n_kfac=n_kfac)
        variances.append(predicted(task, x)[1].diagonal(dim1=1, dim2=2).sum(-1))
    before = D_OUT * task.features(x).square().sum(-1) / task.precision
    assert (variances[0] < before).all()
    assert (variances[1] < variances[0]).all()
    assert (variances[2] < variances[1]).all()


def test_intervals_are_calibrated_where_those_of_the_best_guess_are_not() -> None:
    """Of new observations 80% fall into the 80% interval; with the noise alone far fewer do."""
    inside, guessed = [], []
    for seed in range(60):
        task = regression(seed)
        b, shared = task.posterior
        truth = b + torch.randn(D_OUT, R, dtype=torch.float64) @ torch.linalg.cholesky(shared).T
        x = torch.randn(50, D_IN, dtype=torch.float64)
        mean, covariance = predicted(task, x)
        error = (task.draw(x, truth) - mean).abs()
        width = norm.ppf(0.9)
        inside.append(error < width * (covariance.diagonal(dim1=1, dim2=2) + task.noise**2).sqrt())
        guessed.append(error < width * task.noise)
    assert abs(torch.stack(inside).double().mean() - 0.8) < 0.02
    assert torch.stack(guessed).double().mean() < 0.7


def log_likelihood(task: Regression) -> float:
    with torch.no_grad():
        return float(torch.distributions.Normal(task.model(task.x), task.noise).log_prob(task.y).sum())


@pytest.mark.parametrize("n", [3, 20])
def test_the_evidence_is_the_exact_marginal_likelihood(n: int) -> None:
    task = regression(2, n=n)
    phi = task.features(task.x).numpy()
    covariance = phi @ phi.T / task.precision + task.noise**2 * torch.eye(n).numpy()
    residual = (task.y - task.x @ task.site.weight.T).numpy()
    exact = multivariate_normal(cov=covariance).logpdf(residual.T).sum()
    found = laplace_lora.evidence(task.model, log_likelihood(task), laplace_lora.prior(task.model))
    assert found.item() == pytest.approx(exact)


def test_tuning_the_prior_ends_at_the_maximum_of_the_evidence() -> None:
    task = regression(3, n=30, precision=5.0)
    laplace_lora.prior(task.model).data.fill_(0.1)
    best = laplace_lora.tune_prior(task.model, 0.0, steps=150)
    assert laplace_lora.prior(task.model).item() == pytest.approx(best)

    def at(precision: float) -> float:
        return float(laplace_lora.evidence(task.model, 0.0, torch.tensor([precision], dtype=torch.float64)))

    assert at(best) > max(at(0.9 * best), at(1.1 * best))


# Real models.


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_before_data_the_covariance_is_that_of_the_jacobian(family: str) -> None:
    """J J^T / lambda, with a Jacobian that autograd builds parameter by parameter, and of both factors."""
    model = laplace_lora.apply(tiny.model(family), r=2, dropout=0.0, n_kfac=3, precision=2.5)
    shake(model)
    [(mean, covariance)] = laplace_lora.predict(model, (tiny.outputs(model, family) for _ in range(1)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    f = tiny.outputs(model, family)
    assert torch.equal(mean, f.detach())
    for n in range(len(f)):
        rows = [torch.autograd.grad(f[n, c], parameters, retain_graph=True) for c in range(f.shape[1])]
        j = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        assert torch.allclose(covariance[n], j @ j.T / 2.5)


def test_data_narrow_the_predictions_and_more_data_more() -> None:
    model = laplace_lora.apply(tiny.model("bert"), r=2, dropout=0.0, n_kfac=12)
    shake(model)

    def variance() -> Tensor:
        [(_, covariance)] = laplace_lora.predict(model, (tiny.outputs(model, "bert") for _ in range(1)))
        return covariance.diagonal(dim1=1, dim2=2).sum(-1)                      # (4,)

    found = [variance()]
    for passes in (1, 10, 100):
        laplace_lora.fit(model, (tiny.outputs(model, "bert") for _ in range(passes)))
        found.append(variance())
    assert all((after < before).all() for before, after in pairwise(found))


def test_the_curvature_of_a_softmax() -> None:
    f = torch.randn(5, 4, dtype=torch.float64)
    root = laplace_lora.likelihood_root(f, None)
    for row, half in zip(f, root, strict=True):
        exact = torch.autograd.functional.hessian(lambda z: torch.logsumexp(z, 0), row)
        assert isinstance(exact, Tensor)
        assert torch.allclose(half @ half.T, exact)


def test_uncertain_logits_give_less_certain_probabilities() -> None:
    torch.manual_seed(0)
    mean, eye = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    sure = laplace_lora.probabilities(mean, 0 * eye[None], 4000)
    unsure = laplace_lora.probabilities(mean, 9 * eye[None], 4000)
    assert torch.allclose(sure, mean.softmax(-1), atol=1e-3)
    assert unsure.max() < sure.max() - 0.1
