"""MOELoRA: LoRA experts that all tasks share, weighed by a gate on the task (liu2024moelora).

    h = W_0 x + (alpha / r) sum_i omega_i B_i A_i x,    omega = softmax(G e_t),    t the task

Trained: A (experts, r / experts, d_in), B (experts, d_out, r / experts), the tasks' embeddings e (tasks + 1, d_task)
and the gate G (experts, d_task), all beside every targeted weight. `select` says which task the model is for; then
nothing is left at inference: the sum is added to W_0. As in the official code each place has a gate of its
own, and tasks count from one, so that a row of e stays unused. There the task comes with each example.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Experts(nn.Module):
    """The experts beside one weight, with their gate."""

    task: int = 1               # of the model now

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, experts: int, tasks: int, d_task: int
    ):
        super().__init__()
        self.A = nn.Parameter(0.01 * torch.randn(experts, r // experts, d_in))
        self.B = nn.Parameter(torch.zeros(experts, d_out, r // experts))
        self.e = nn.Parameter(torch.randn(tasks + 1, d_task))
        self.G = nn.Parameter(torch.empty(experts, d_task))
        nn.init.kaiming_uniform_(self.G, a=math.sqrt(5))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def omega(self) -> Tensor:
        """How much of each expert the task uses, (experts,)."""
        return (self.G @ self.e[self.task]).softmax(0)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = torch.einsum("...d,nrd->...nr", self.dropout(x), self.A)              # (..., experts, r / experts)
        return y + self.scale * torch.einsum("n,...nr,nor->...o", self.omega(), low, self.B)

    def delta(self) -> Tensor:
        return self.scale * torch.einsum("n,nor,nrd->od", self.omega(), self.B, self.A)         # (d_out, d_in)


def select(model: nn.Module, task: int) -> nn.Module:
    """Turn the model to a task, from 1 to the number of tasks."""
    for _, child in kit.at_sites(model, "moelora", Experts):
        if not 0 < task < len(child.e):
            raise ValueError(f"task {task} of {len(child.e) - 1}")
        child.task = task
    return model


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.1, experts: int = 8, tasks: int = 16,
    d_task: int = 64, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put experts and a gate beside every targeted weight; the first task is selected."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Experts(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, experts=experts, tasks=tasks, d_task=d_task
        )
        kit.attach(site, "moelora", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add to the weights what the selected task makes of the experts."""
    for site, child in kit.at_sites(model, "moelora", Experts):
        site.weight.add_(child.delta())
    kit.detach(model, "moelora")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module for the recorded task; for the golden vectors."""
    select(model, int(inputs["task"]))
    [(site, _)] = kit.at_sites(model, "moelora", Experts)
    return {"output": site.module(inputs["x"])}
