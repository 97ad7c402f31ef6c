"""IncreLoRA: incremental parameter allocation (zhang2023increlora).

    h = W_0 x + (alpha / r_k) B diag(E) A x,    r_k grows where s_k = sum |dW * dL/d(dW)| / sqrt(numel) is large

Trained: A (r_k, d_in), E (r_k), B (d_out, r_k) beside every targeted weight, and in reserve A and B of the next
`reserve` ranks, behind an E of 1e-5 that is not trained. A training loop adds gamma * `penalty(model)` to its loss
and now and then, between steps, gives its optimiser the new parameters that `grow(model, h)` returns: the h weights
of the largest smoothed score take their reserves into use, until all have target_r ranks on average. `finish` grows
what is left to grow and drops the reserves. At inference the product is added to W_0. As in the authors' code the
scale follows the present rank; unlike there growth ends exactly on the budget, also when scores are tied.
"""

import copy

import torch
from torch import Tensor, nn

from . import _kit as kit

BETA = 0.85
"""Of both running averages."""
EPSILON = 1e-5
"""Added to the rank in the scale."""


class Growing(kit.Child):
    """The correction beside one weight, in pieces of one or more ranks each."""

    def __init__(self, d_in: int, d_out: int, *, init_r: int, target_r: int, reserve: int, alpha: float):
        super().__init__()
        self.A = nn.ParameterList([0.02 * torch.randn(init_r, d_in)])
        self.E = nn.ParameterList([torch.zeros(init_r)])
        self.B = nn.ParameterList([0.02 * torch.randn(d_out, init_r)])
        self.target_r, self.reserve, self.alpha = target_r, reserve, alpha
        self.sensitivity = self.uncertainty = torch.zeros(())       # running averages
        self.restock(d_in, d_out)

    def restock(self, d_in: int, d_out: int) -> None:
        """Lay in a new reserve."""
        like = self.A[0]
        self.A_reserve = nn.Parameter(0.02 * torch.randn(self.reserve, d_in).to(like))
        self.E_reserve = nn.Parameter(torch.full((self.reserve,), 1e-5).to(like), requires_grad=False)
        self.B_reserve = nn.Parameter(0.02 * torch.randn(d_out, self.reserve).to(like))

    @property
    def rank(self) -> int:
        return sum(len(e) for e in self.E)

    def delta(self) -> Tensor:
        a, e, b = list(self.A), list(self.E), list(self.B)
        if hasattr(self, "A_reserve"):
            a, e, b = [*a, self.A_reserve], [*e, self.E_reserve], [*b, self.B_reserve]
        return (torch.cat(b, 1) * torch.cat(e)) @ torch.cat(a) * (self.alpha / (self.rank + EPSILON))   # (d_out, d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        delta = self.delta()
        if delta.requires_grad:
            delta.register_hook(self.observe)
        return y + x @ delta.T                          # (..., d_in) -> (..., d_out)

    @property
    def score(self) -> Tensor:
        """How much the weight deserves rank."""
        return self.sensitivity * self.uncertainty

    @torch.no_grad()
    def observe(self, gradient: Tensor) -> None:
        """Take the gradient of the correction (d_out, d_in) into the running averages."""
        now = (self.delta() * gradient).abs().sum() / gradient.numel() ** 0.5
        self.sensitivity = BETA * self.sensitivity + (1 - BETA) * now
        self.uncertainty = BETA * self.uncertainty + (1 - BETA) * (now - self.sensitivity).abs()

    def grow(self) -> list[nn.Parameter]:
        """Take the reserve into use and lay in another. Returns what the optimiser does not know yet."""
        for pieces, piece in ((self.A, self.A_reserve), (self.E, self.E_reserve), (self.B, self.B_reserve)):
            pieces.append(piece.requires_grad_(True))
        used = self.E_reserve
        self.restock(self.A_reserve.shape[1], self.B_reserve.shape[0])
        return [used, self.A_reserve, self.B_reserve]

    def close(self) -> None:
        """Drop the reserve and make one piece of all."""
        del self.A_reserve, self.E_reserve, self.B_reserve
        for name, side in (("A", 0), ("E", 0), ("B", 1)):
            setattr(self, name, nn.ParameterList([torch.cat(list(getattr(self, name)), side).detach()]))


def left(model: nn.Module) -> int:
    """How many ranks are still to be given to the weights."""
    return sum(child.target_r - child.rank for _, child in kit.at_sites(model, "increlora", Growing))


def grow(model: nn.Module, h: int) -> list[nn.Parameter]:
    """Give rank to the h weights of the largest score, within the budget. Returns the new parameters."""
    children = sorted(
        (child for _, child in kit.at_sites(model, "increlora", Growing)),
        key=lambda child: float(child.score), reverse=True,
    )  # fmt: skip
    new = [p for child in children[: min(h, left(model) // children[0].reserve)] for p in child.grow()]
    if not left(model):
        for child in children:
            child.E_reserve.data.zero_()
    return new


def penalty(model: nn.Module) -> Tensor:
    """How far each weight's A and B are from orthonormal, reserves included; the authors add 0.1 of it to the loss."""
    factors = []
    for _, child in kit.at_sites(model, "increlora", Growing):
        factors.append(torch.cat([*child.A, child.A_reserve]))              # (rank and reserve, d_in)
        factors.append(torch.cat([*child.B, child.B_reserve], 1).T)         # (rank and reserve, d_out)
    return torch.stack([(f @ f.T - torch.eye(len(f)).to(f)).norm() for f in factors]).mean()


def apply(
    model: nn.Module, *, init_r: int = 1, target_r: int = 2, reserve: int = 1, alpha: float = 16.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction that can grow beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Growing(site.d_in, site.d_out, init_r=init_r, target_r=target_r, reserve=reserve, alpha=alpha)
        kit.attach(site, "increlora", child)
    return model


def finish(model: nn.Module) -> nn.Module:
    """Give out what is left of the budget, and drop the reserves."""
    children = [child for _, child in kit.at_sites(model, "increlora", Growing)]
    while left(model):
        grow(model, len(children))
    for child in children:
        child.close()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "increlora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. `grown` is the output after one growth."""
    [(site, child)] = kit.at_sites(model, "increlora", Growing)
    output: Tensor = site.module(inputs["x"])
    torch.autograd.grad((output * inputs["probe"]).sum(), child.E[0], retain_graph=True)        # `observe` sees it
    other = copy.deepcopy(model)
    grow(other, 1)
    grown = other.get_submodule(site.path)(inputs["x"])
    return {"output": output, "penalty": 0.1 * penalty(model), "score": child.score, "grown": grown}
