"""DoRA (dynamic rank): dynamic rank distribution (mao2024dora; code_dora_dynamic).

    h = W_0 x + (alpha / r) B diag(c) A x        r = init_r;    s_k = |c_k b_k a_k^T| / |B diag(c) A|,  smoothed

Trained: A (r, d_in), c (r), B (d_out, r) beside every targeted weight. A training loop adds 0.1 times `penalty(model)`
to its loss, calls `observe(model)` after each optimizer step and now and then `prune(model, number(...))`: of all parts
of the model, the ones with the smallest s lose their c, and may win it back. After the schedule it prunes to the same
parts in each step. `finish` cuts down to target_r parts per weight on average. At inference the product is added to
W_0. As in the authors' code the scale keeps the initial r.
"""

import copy

import torch
from torch import Tensor, nn

from . import _kit as kit

EPSILON = 1e-8
"""Added to the norm of a correction."""


class Parts(kit.Child):
    """The correction beside one weight, as a sum of parts of rank one."""

    def __init__(self, d_in: int, d_out: int, *, init_r: int, target_r: int, alpha: float, dropout: float):
        super().__init__()
        self.A = nn.Parameter(torch.empty(init_r, d_in))
        self.c = nn.Parameter(torch.zeros(init_r))
        self.B = nn.Parameter(torch.empty(d_out, init_r))
        nn.init.kaiming_uniform_(self.A)
        nn.init.kaiming_uniform_(self.B)
        self.scale, self.target_r = alpha / init_r, target_r
        self.dropout = nn.Dropout(dropout)
        self.scores = torch.zeros(init_r)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.c * (self.dropout(x) @ self.A.T)                 # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.B * self.c) @ self.A * self.scale              # (d_out, d_in)

    @torch.no_grad()
    def observe(self, beta: float) -> None:
        """Take the present shares (r,) into the running averages."""
        whole = ((self.B * self.c) @ self.A).norm() + EPSILON
        share = self.c.abs() * self.B.norm(dim=0) * self.A.norm(dim=1) / whole
        self.scores = beta * self.scores.to(share) + (1 - beta) * share


def parts(model: nn.Module) -> list[Parts]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "dora_dynamic_rank", Parts)]


def penalty(model: nn.Module) -> Tensor:
    """Return the mean variance of the vectors' entries; the authors add 0.1 of it to the loss."""
    return torch.cat([v for child in parts(model) for v in (child.A.var(1), child.B.var(0))]).mean()


def number(done: float, *, parts: int, initial: int, final: int) -> int:
    """Return how many of all parts are removed, when this share of the schedule is done."""
    return int(parts * ((initial - final) / initial * done**3))


def observe(model: nn.Module, beta: float = 0.9) -> None:
    """Take the present shares of all parts into the scores."""
    for child in parts(model):
        child.observe(beta)


@torch.no_grad()
def prune(model: nn.Module, number: int) -> list[Tensor]:
    """Zero the c of the parts with the smallest scores. Returns masks of those that stay, per weight (r,)."""
    children = parts(model)
    threshold = torch.cat([child.scores for child in children]).kthvalue(max(number, 1)).values
    masks = [child.scores > threshold for child in children]
    for child, mask in zip(children, masks, strict=True):
        child.c.mul_(mask)
    return masks


def apply(
    model: nn.Module, *, init_r: int = 12, target_r: int = 8, alpha: float = 8.0, dropout: float = 0.1,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a sum of parts beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        sizes = {"init_r": init_r, "target_r": target_r}
        kit.attach(site, "dora_dynamic_rank", Parts(site.d_in, site.d_out, **sizes, alpha=alpha, dropout=dropout))
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Keep the parts with the largest scores, target_r per weight on average, and drop all others."""
    children = parts(model)
    scores = torch.cat([child.scores for child in children])
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[scores.topk(sum(child.target_r for child in children)).indices] = True
    for child, mask in zip(children, stays.split([len(child.c) for child in children]), strict=True):
        child.A.data, child.c.data, child.B.data = child.A[mask], child.c[mask], child.B[:, mask]
        child.scores = child.scores[mask]
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "dora_dynamic_rank")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the first module, and prune a copy after recorded steps of c; for the golden vectors."""
    [(site, first), _] = kit.at_sites(model, "dora_dynamic_rank", Parts)
    output: Tensor = site.module(inputs["x"])
    trial = copy.deepcopy(model)
    children, masks, removed = parts(trial), list[Tensor](), list[int]()
    for step, factors in enumerate(inputs["c"]):                    # (weights, r)
        for child, value in zip(children, factors, strict=True):
            child.c.data = value.clone()
        observe(trial)
        count = inputs["c"][0].numel()
        removed.append(number(
            step / (len(inputs["c"]) - 1), parts=count, initial=len(first.c), final=first.target_r
        ))  # fmt: skip
        masks = prune(trial, removed[-1])
    return {
        "output": output, "penalty": penalty(model), "scores": torch.stack([child.scores for child in children]),
        "kept": torch.stack(masks), "c_after": torch.stack([child.c for child in children]),
    }  # fmt: skip
