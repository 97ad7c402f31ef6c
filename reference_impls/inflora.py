"""InfLoRA: LoRA for a sequence of tasks, in subspaces that do not interfere (liang2024inflora; code_inflora).

    h = W_0 x + B_p A_p x + B A x,    A = the r principal directions of the task's inputs outside the memory, / sqrt(3)

A_p (past * r, d_in) and B_p (d_out, past * r) hold the factors of `past` earlier tasks and are frozen, and so is A (r,
d_in). Trained: B (d_out, r). `calibrate` computes A from the inputs of each module. The memory of a module spans the
inputs of the earlier tasks; `remember` extends it after a task, and `next_task` moves A and B to the earlier ones. At
inference the products are added to W_0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts

Memory = Mapping[str, Tensor]
"""For the path of each module an orthonormal basis (d_in, k) of the inputs of the earlier tasks."""


class InfLoRA(kit.Child):
    """The corrections of all tasks so far beside one weight of shape (d_out, d_in)."""

    A_p: Tensor
    B_p: Tensor
    A: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, past: int):
        super().__init__()
        if r > d_in:
            raise ValueError(f"{d_in} inputs do not have {r} directions")
        if past:
            self.register_buffer("A_p", torch.zeros(past * r, d_in))
            self.register_buffer("B_p", torch.zeros(d_out, past * r))
        self.register_buffer("A", torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))            # until it is computed
        self.past = past

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.past:
            y = y + x @ self.A_p.T @ self.B_p.T                     # (..., d_in) -> (..., past * r) -> (..., d_out)
        return y + x @ self.A.T @ self.B.T

    def delta(self) -> Tensor:
        return self.B @ self.A + (self.B_p @ self.A_p if self.past else 0)          # (d_out, d_in)

    @torch.no_grad()
    def advance(self) -> None:
        before = (self.A_p, self.B_p) if self.past else (self.A[:0], self.B[:, :0])
        self.register_buffer("A_p", torch.cat([before[0], self.A]))
        self.register_buffer("B_p", torch.cat([before[1], self.B], dim=1))
        self.B.zero_()
        self.past += 1


def apply(
    model: nn.Module, *, r: int = 10, past: int = 0, targets: tuple[str, ...] = ("attn.k", "attn.v")
) -> nn.Module:
    """Freeze the model and put the corrections of a task, and of those before it, beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "inflora", InfLoRA(site.d_in, site.d_out, r=r, past=past))
    return model


def moments(model: nn.Module, losses: Iterable[Tensor]) -> dict[nn.Module, Tensor]:
    """Return the mean of x x^T (d_in, d_in) over the inputs x of each targeted module."""
    hosts = [site.module for site, _ in kit.at_sites(model, "inflora", InfLoRA)]
    total: dict[nn.Module, Tensor] = {host: torch.zeros(()) for host in hosts}
    seen: dict[nn.Module, int] = dict.fromkeys(total, 0)

    def see(host: nn.Module, x: Tensor) -> None:
        total[host] = total[host].to(x) + x.T @ x
        seen[host] += len(x)

    _starts.read(list(total), losses, see)
    return {host: value / seen[host] for host, value in total.items()}


@torch.no_grad()
def calibrate(model: nn.Module, losses: Iterable[Tensor], memory: Memory | None = None) -> nn.Module:
    """Compute the first factors from the inputs of the losses' forward passes, outside the memory of earlier tasks."""
    found = moments(model, losses)
    for site, child in kit.at_sites(model, "inflora", InfLoRA):
        own = found[site.module]
        if memory is not None:
            own = outside(memory[site.path].to(own), own)
        u, _, _ = torch.linalg.svd(own)
        child.A.copy_(u[:, : len(child.A)].T / math.sqrt(3))
    return model


@torch.no_grad()
def remember(
    model: nn.Module, losses: Iterable[Tensor], memory: Memory | None = None, *, threshold: float = 0.95
) -> Memory:
    """Return the memory, extended by the inputs of a task that has been trained."""
    found = moments(model, losses)
    longer: dict[str, Tensor] = {}
    for site, _ in kit.at_sites(model, "inflora", InfLoRA):
        own = found[site.module]
        known = own[:, :0] if memory is None else memory[site.path].to(own)
        longer[site.path] = extended(known, own, threshold)
    return longer


def outside(basis: Tensor, own: Tensor) -> Tensor:
    """Return the part of the moments (d_in, d_in) that is orthogonal to an orthonormal basis (d_in, k)."""
    return own - basis @ (basis.T @ own)


def extended(basis: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Add the main directions of the moments to a basis, until it holds a share of their squared singular values.

    The first task stops one direction before the share is reached, as in the authors' code.
    """
    u: Tensor
    u, s, _ = torch.linalg.svd(outside(basis, own))
    shares = s.square() / own.square().sum()
    held = 1 - shares.sum()
    count = int((held + shares.cumsum(0) < threshold).sum())
    if basis.shape[1] == 0:
        return u[:, : max(count, 1)]
    more = u[:, : count + 1] if held < threshold else u[:, :0]
    return torch.cat([basis, more], dim=1)[:, : len(own)]


def next_task(model: nn.Module) -> nn.Module:
    """Move the factors of the present task to the earlier ones. `calibrate` then starts those of the next."""
    for _, child in kit.at_sites(model, "inflora", InfLoRA):
        child.advance()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "inflora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and the design of two tasks in a copy of the model; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "inflora", InfLoRA)
    found = {"output": site.module(inputs["x"])}
    started = copy.deepcopy(model)
    [(own, child)] = kit.at_sites(started, "inflora", InfLoRA)
    memory: Memory | None = None
    for task in ("first", "second"):
        share = float(inputs[f"{task}_threshold"])
        calibrate(started, (own.module(sample) for sample in inputs[task]), memory)
        found[f"{task}_A"] = child.A.abs().clone()
        memory = remember(started, (own.module(sample) for sample in inputs[task]), memory, threshold=share)
        found[f"{task}_memory"] = memory[own.path] @ memory[own.path].T
    return found
