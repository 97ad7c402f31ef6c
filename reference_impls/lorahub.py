"""LoraHub: LoRA modules of other tasks, mixed with weights that are found without gradients (huang2024lorahub).

    Delta W = (alpha / r) (sum_i w_i B_i) (sum_i w_i A_i),    w minimises loss(w) + 0.05 mean |w_i|,    |w_i| <= 1.5

Given: A (modules, r, d_in) and B (modules, d_out, r) at every targeted weight, all frozen. `load` copies a trained LoRA
into them as one module. Found by `search`: w (modules), one vector for the whole model. The mixture is itself one LoRA
module. It is what a task stores, and at inference it is added to W_0.

As in the authors' code, a new model uses its first module alone, and the search starts with all weights zero. That code
searches with nevergrad's NGOpt, a choice among many optimisers. Here `search` is a (1+1) evolution strategy of a few
lines, because nevergrad brings several further packages that nothing else here needs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class Weights(kit.Child):
    """The weight of each module, shared by the whole model."""

    def __init__(self, modules: int):
        super().__init__()
        self.w = nn.Parameter(torch.eye(modules)[0].clone())


class Hub(kit.Child):
    """The factors of all modules at one weight."""

    weights: Weights            # not a submodule

    def __init__(self, weights: Weights, d_in: int, d_out: int, *, modules: int, r: int, alpha: float):
        super().__init__()
        kit.share(self, weights=weights)
        self.A = nn.Parameter(torch.randn(modules, r, d_in) * d_in**-0.5, requires_grad=False)
        self.B = nn.Parameter(torch.randn(modules, d_out, r) * r**-0.5, requires_grad=False)
        self.scale = alpha / r

    def mixed(self) -> tuple[Tensor, Tensor]:
        """Return the mixture as one module: A (r, d_in), B (d_out, r)."""
        w = self.weights.w.to(self.A.dtype)
        return torch.tensordot(w, self.A, 1), torch.tensordot(w, self.B, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.mixed()
        return y + self.scale * (x @ a.T @ b.T)                     # (..., d_in) -> (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        a, b = self.mixed()
        return self.scale * (b @ a)                                 # (d_out, d_in)


def hubs(model: nn.Module) -> list[tuple[kit.Site, Hub]]:
    """Return every targeted weight with its modules."""
    return list(kit.at_sites(model, "lorahub", Hub))


def weights(model: nn.Module) -> nn.Parameter:
    """Return the weights of the modules, (modules,)."""
    return hubs(model)[0][1].weights.w


@torch.no_grad()
def load(model: nn.Module, index: int, source: nn.Module, name: str = "lora") -> nn.Module:
    """Copy a LoRA that was trained on another copy of the model, with the same targets, into one module."""
    for (_, hub), (_, pair) in zip(hubs(model), kit.at_sites(source, name, lora.LoRA), strict=True):
        hub.A[index], hub.B[index] = pair.A, pair.B * (pair.scale / hub.scale)
    return model


def regular(weights: Tensor, penalty: float = 0.05) -> Tensor:
    """Return the term that the search adds to the loss."""
    return penalty * weights.abs().mean()


@torch.no_grad()
def search(
    model: nn.Module, loss: Callable[[], float], *, budget: int = 40, bound: float = 1.5, penalty: float = 0.05,
    step: float = 0.5,
) -> list[float]:
    """Find the weights with `budget` evaluations of the loss. Return the best score after each evaluation.

    Each step draws one candidate around the best weights, and keeps it if it is no worse. The step size grows after a
    success and shrinks otherwise. It is constant on average if one candidate in five succeeds.
    """
    w = weights(model)

    def score(candidate: Tensor) -> float:
        w.copy_(candidate)
        return loss() + float(regular(candidate, penalty))

    best = torch.zeros_like(w)
    scores = [score(best)]
    for _ in range(budget - 1):
        candidate = (best + step * torch.randn_like(best)).clamp(-bound, bound)
        found = score(candidate)
        better = found <= scores[-1]
        best, step = (candidate, step * 1.5) if better else (best, step * 1.5**-0.25)
        scores.append(min(found, scores[-1]))
    w.copy_(best)
    return scores


def apply(
    model: nn.Module, *, modules: int = 20, r: int = 16, alpha: float = 32.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, add random modules at every targeted weight, and use the first one alone."""
    kit.freeze(model)
    shared = Weights(modules)
    kit.attach(model, "lorahub", shared)
    for site in kit.sites(model, targets):
        kit.attach(site, "lorahub", Hub(shared, site.d_in, site.d_out, modules=modules, r=r, alpha=alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the mixture to the weights of the model."""
    return kit.fold(model, "lorahub")


def pack(model: nn.Module) -> dict[str, Tensor]:
    """Return the mixture, as one LoRA module for each targeted weight."""
    mixtures = [hub.mixed() for _, hub in hubs(model)]
    return {f"{i}.{name}": t.detach().clone() for i, m in enumerate(mixtures) for name, t in zip("AB", m, strict=True)}


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write a mixture into the first module, and use it alone."""
    for i, (_, hub) in enumerate(hubs(model)):
        hub.A[0], hub.B[0] = state[f"{i}.A"], state[f"{i}.B"]
    weights(model).zero_()[0] = 1.0
    return model


@torch.no_grad()
def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the mixture on recorded inputs, and return the start and the bounds of the search; for the golden vectors."""
    [(site, hub)] = hubs(model)
    a, b = hub.mixed()
    w, seen = weights(model), list[Tensor]()
    before = w.detach().clone()

    def loss() -> float:
        seen.append(w.detach().clone())
        return 0.0

    search(model, loss, budget=50, step=9.0)
    w.copy_(before)
    return {
        "output": site.module(inputs["x"]), "penalty": regular(w), "A": a, "B": b, "first": seen[0],
        "bounds": torch.stack([torch.stack(seen).min(), torch.stack(seen).max()]),
    }
