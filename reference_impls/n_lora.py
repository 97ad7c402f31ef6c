"""N-LoRA: non-collision low-rank adaptation for a sequence of tasks (yang2024nlora; code_n_lora).

    h = W_0 x + (alpha / r) (B_p A_p x + B A x),    loss + lambda |B A|_1

A_p (past * r, d_in) and B_p (d_out, past * r) hold the factors of `past` earlier tasks and are frozen. Trained: A (r,
d_in) and B (d_out, r) of the present task. A training loop adds a multiple of `penalty(model)` to its loss. The
change of each weight becomes sparse, so that the changes of different tasks seldom meet at an entry. `next_task`
moves A and B to the earlier ones and starts new factors. At inference the products are added to W_0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _kit as kit
from .o_lora import OLoRA


def corrections(model: nn.Module) -> list[OLoRA]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "n_lora", OLoRA)]


def penalty(model: nn.Module) -> Tensor:
    """Return the sum of |B A| over all weights. The scripts' weights belong to |A B|, which the authors' code takes."""
    return torch.stack([(child.B @ child.A).abs().sum() for child in corrections(model)]).sum()


def next_task(model: nn.Module) -> nn.Module:
    """Freeze the factors of the present task with the earlier ones, and start those of the next."""
    for child in corrections(model):
        child.advance()
    return model


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 32.0, past: int = 0, dropout: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put the corrections of a task, and of those before it, beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = OLoRA(site.d_in, site.d_out, r=r, alpha=alpha, past=past, dropout=dropout)
        kit.attach(site, "n_lora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "n_lora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted module, and its penalty; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "n_lora", OLoRA)
    return {"output": site.module(inputs["x"]), "penalty": penalty(model)}
