"""Polytropon: combining modular skills in multitask learning (ponti2023polytropon), multi-head routing (caccia2023mhr).

    h = W_0 x + (1 / r) (sum_i z_i B_i) (sum_i z_i A_i) x,    z = sigmoid(Z_t) / sum sigmoid(Z_t),    t the task

Trained beside every targeted weight: A (n_splits, n_skills, d_in / n_splits, r), B (n_splits, n_skills, r, d_out /
n_splits) and the table Z (n_tasks, n_splits * n_skills). With n_splits > 1 each piece of the input and of the output
has weights z of its own, which is multi-head routing. While training, a relaxed Bernoulli draw takes the place of the
sigmoid. `select` turns the model to a task, counted from zero; merged for it, nothing is left at inference.
"""

import torch
from torch import Tensor, nn
from torch.distributions import RelaxedBernoulli

from . import _kit as kit


class Skills(kit.Child):
    """The skills beside one weight of shape (d_out, d_in), and the tasks' table."""

    task: int = 0               # of the model now

    def __init__(self, d_in: int, d_out: int, *, r: int, n_tasks: int, n_skills: int, n_splits: int):
        super().__init__()
        if d_in % n_splits or d_out % n_splits:
            raise ValueError(f"n_splits = {n_splits} must divide {d_in} and {d_out}")
        limit = (3 * d_in) ** -0.5                                  # of the authors; a linear layer's is d_in^-0.5
        self.A = nn.Parameter(torch.empty(n_splits, n_skills, d_in // n_splits, r).uniform_(-limit, limit))
        self.B = nn.Parameter(torch.zeros(n_splits, n_skills, r, d_out // n_splits))
        self.Z = nn.Parameter(torch.empty(n_tasks, n_splits * n_skills).uniform_(-1e-3, 1e-3))

    def weights(self) -> Tensor:
        """How much of each skill the task uses, (n_splits, n_skills), each row summing to one."""
        logits = self.Z[self.task].view(self.A.shape[:2])
        chance: Tensor = logits.sigmoid()
        if self.training:
            chance = RelaxedBernoulli(logits.new_ones(()), logits=logits).rsample()
        return chance / chance.sum(-1, keepdim=True)

    def factors(self) -> tuple[Tensor, Tensor]:
        z = self.weights()
        first = torch.einsum("qs,qsdr->qdr", z, self.A).flatten(0, 1)               # (d_in, r)
        second = torch.einsum("qs,qsrd->rqd", z, self.B).flatten(1)                 # (r, d_out)
        return first, second / len(second)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = self.factors()
        return y + x @ first @ second                               # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        first, second = self.factors()
        return (first @ second).T                                   # (d_out, d_in)


def select(model: nn.Module, task: int) -> nn.Module:
    """Turn the model to a task, from 0."""
    for _, child in kit.at_sites(model, "poly", Skills):
        if not 0 <= task < len(child.Z):
            raise ValueError(f"task {task} of {len(child.Z)}")
        child.task = task
    return model


def apply(
    model: nn.Module, *, r: int = 16, n_tasks: int = 8, n_skills: int = 4, n_splits: int = 1,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and put skills beside every targeted weight; the first task is selected."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Skills(site.d_in, site.d_out, r=r, n_tasks=n_tasks, n_skills=n_skills, n_splits=n_splits)
        kit.attach(site, "poly", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add to the weights what the selected task makes of the skills."""
    for site, child in kit.at_sites(model, "poly", Skills):
        site.weight.add_(child.eval().delta())
    kit.detach(model, "poly")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module for the recorded task, with the mean mixture and no draw; for the golden vectors."""
    select(model, int(inputs["task"]))
    [(site, child)] = kit.at_sites(model, "poly", Skills)
    child.eval()
    return {"output": site.module(inputs["x"])}
