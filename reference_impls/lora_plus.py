"""LoRA+: efficient low rank adaptation of large models (hayou2024loraplus).

    h = W_0 x + (alpha / r) B A x,    learning rates: lr for A, ratio lr for B

Trained: A (r, d_in) and B (d_out, r), as in LoRA. What is new is in the optimiser: a training loop gives it
`parameter_groups(model, lr)`. In a wide model one learning rate for both makes either A too fast or B too slow; the
gain grows with the width. At inference nothing is left: the product is added to W_0. The authors' code and peft also
leave biases and norms out of weight decay, and have a third rate for factors of embeddings, which are no targets here.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class LoRAPlus(lora.LoRA):
    """A correction whose second factor learns `ratio` times as fast as the first."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, lr_ratio: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.lr_ratio = lr_ratio


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 8.0, dropout: float = 0.1, lr_ratio: float = 80.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = LoRAPlus(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, lr_ratio=lr_ratio)
        kit.attach(site, "lora_plus", child)
    return model


def parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the factors A at `lr`, the factors B at `lr_ratio` times that."""
    children = [child for _, child in kit.at_sites(model, "lora_plus", LoRAPlus)]
    return [
        {"params": [child.A for child in children], "lr": lr},
        {"params": [child.B for child in children], "lr": lr * children[0].lr_ratio},
    ]


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_plus")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    trial = copy.deepcopy(model)
    [(_, child)] = kit.at_sites(trial, "lora_plus", LoRAPlus)
    optimizer = torch.optim.SGD(parameter_groups(trial, inputs["lr"].item()))
    child.A.grad, child.B.grad = inputs["grad_A"], inputs["grad_B"]
    optimizer.step()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {"rates": torch.tensor([rates[id(child.A)], rates[id(child.B)]]).double(), "A": child.A, "B": child.B}
