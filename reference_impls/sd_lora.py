"""SD-LoRA: directions of earlier tasks with trained magnitudes (wu2025sdlora; code_sd_lora).

    h = W_0 x + sum over earlier tasks i of a_i B_i A_i x / (|B_i| |A_i|) + b B A x

Trained: A (r, d_in) and B (d_out, r) of the present task beside every targeted weight; and for the whole model one
magnitude of each earlier task, a (past), and one of the present task, b (1). A_p (past * r, d_in) and B_p (d_out,
past * r) hold the earlier factors, of norm 1, and are frozen. `next_task` moves A and B to the earlier ones and
starts all else anew. At inference everything is added to W_0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

START = 0.8


class Magnitudes(kit.Child):
    """The magnitudes of all tasks so far."""

    def __init__(self, past: int):
        super().__init__()
        self.restart(past)

    def restart(self, past: int) -> None:
        if past:
            self.a = nn.Parameter(torch.full((past,), START))
        self.b = nn.Parameter(torch.full((1,), START))


class SDLoRA(kit.Child):
    """The corrections of all tasks so far beside one weight of shape (d_out, d_in)."""

    A_p: Tensor
    B_p: Tensor
    shared: Magnitudes          # not a submodule

    def __init__(self, d_in: int, d_out: int, shared: Magnitudes, *, r: int, past: int):
        super().__init__()
        kit.share(self, shared=shared)
        if past:
            self.register_buffer("A_p", torch.randn(past * r, d_in) / math.sqrt(r * d_in))
            self.register_buffer("B_p", torch.randn(d_out, past * r) / math.sqrt(r * d_out))
        self.A = nn.Parameter(torch.empty(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.past = past

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.past:
            low = (x @ self.A_p.T).unflatten(-1, (self.past, -1))       # (..., d_in) -> (..., past, r)
            y = y + (low * self.shared.a[:, None]).flatten(-2) @ self.B_p.T
        return y + (self.shared.b * (x @ self.A.T)) @ self.B.T          # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        own = self.shared.b * (self.B @ self.A)                         # (d_out, d_in)
        return own + (self.B_p * self.shared.a.repeat_interleave(len(self.A))) @ self.A_p if self.past else own

    @torch.no_grad()
    def advance(self) -> None:
        before = (self.A_p, self.B_p) if self.past else (self.A[:0], self.B[:, :0])
        self.register_buffer("A_p", torch.cat([before[0], self.A / torch.linalg.norm(self.A)]))
        self.register_buffer("B_p", torch.cat([before[1], self.B / torch.linalg.norm(self.B)], dim=1))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B.zero_()
        self.past += 1


def corrections(model: nn.Module) -> list[SDLoRA]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "sd_lora", SDLoRA)]


def next_task(model: nn.Module) -> nn.Module:
    """Freeze the directions of the present task with the earlier ones, and start factors and magnitudes anew."""
    for child in corrections(model):
        child.advance()
    for shared in {child.shared for child in corrections(model)}:
        like = shared.b
        shared.restart(corrections(model)[0].past)
        shared.to(like)
    return model


def apply(
    model: nn.Module, *, r: int = 10, past: int = 0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put the corrections of a task, and of those before it, beside every targeted weight."""
    kit.freeze(model)
    shared = Magnitudes(past)
    kit.attach(model, "sd_lora", shared)
    for site in kit.sites(model, targets):
        kit.attach(site, "sd_lora", SDLoRA(site.d_in, site.d_out, shared, r=r, past=past))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "sd_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted queries and values; for the golden vectors."""
    queries, values = (site.module(inputs["x"]) for site, _ in kit.at_sites(model, "sd_lora", SDLoRA))
    return {"output": queries, "values": values}
