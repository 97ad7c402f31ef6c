"""MOELoRA: LoRA experts that all tasks share, weighed by a gate on the task (liu2024moelora).

    h = W_0 x + (alpha / r) sum_i omega_i B_i A_i x,    omega = softmax(G e_t),    t the task

Trained: A (experts, r / experts, d_in) and B (experts, d_out, r / experts) beside every targeted weight, and once for
the whole model the tasks' embeddings e (tasks + 1, d_task) and the gate G (experts, d_task), so that a task weighs the
experts alike at every place. `select` says which task the model is for; then nothing is left at inference: the sum is
added to W_0. As in the official code tasks count from one, so that a row of e stays unused. There the task comes with
each example.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class Gate(kit.Child):
    """What the tasks make of the experts, for the whole model."""

    task: int = 1               # of the model now

    def __init__(self, *, experts: int, tasks: int, d_task: int):
        super().__init__()
        self.e = nn.Parameter(torch.randn(tasks + 1, d_task))
        self.G = nn.Parameter(torch.empty(experts, d_task))
        nn.init.kaiming_uniform_(self.G, a=math.sqrt(5))

    def omega(self) -> Tensor:
        """How much of each expert the task uses, (experts,)."""
        return (self.G @ self.e[self.task]).softmax(0)


class Experts(kit.Child):
    """The experts beside one weight."""

    gate: Gate                  # not a submodule

    def __init__(self, gate: Gate, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float):
        super().__init__()
        kit.share(self, gate=gate)
        experts = len(gate.G)
        self.A = nn.Parameter(0.01 * torch.randn(experts, r // experts, d_in))
        self.B = nn.Parameter(torch.zeros(experts, d_out, r // experts))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = torch.einsum("...d,nrd->...nr", self.dropout(x), self.A)              # (..., experts, r / experts)
        return y + self.scale * torch.einsum("n,...nr,nor->...o", self.gate.omega(), low, self.B)

    def delta(self) -> Tensor:
        return self.scale * torch.einsum("n,nor,nrd->od", self.gate.omega(), self.B, self.A)    # (d_out, d_in)


def gate_of(model: nn.Module) -> Gate:
    """The gate of the model."""
    [gate] = [child for child in kit.attached(model, "moelora") if isinstance(child, Gate)]
    return gate


def select(model: nn.Module, task: int) -> nn.Module:
    """Turn the model to a task, from 1 to the number of tasks."""
    gate = gate_of(model)
    if not 0 < task < len(gate.e):
        raise ValueError(f"task {task} of {len(gate.e) - 1}")
    gate.task = task
    return model


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.1, experts: int = 8, tasks: int = 16,
    d_task: int = 64, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, put experts beside every targeted weight and one gate on it; the first task is selected."""
    kit.freeze(model)
    gate = Gate(experts=experts, tasks=tasks, d_task=d_task)
    kit.attach(model, "moelora", gate)
    for site in kit.sites(model, targets):
        child = Experts(gate, site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout)
        kit.attach(site, "moelora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add to the weights what the selected task makes of the experts."""
    return kit.fold(model, "moelora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module for the recorded task; for the golden vectors."""
    select(model, int(inputs["task"]))
    [(site, _)] = kit.at_sites(model, "moelora", Experts)
    return {"output": site.module(inputs["x"])}
