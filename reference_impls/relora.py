"""ReLoRA: high-rank training through low-rank updates (lialin2023relora; code_relora).

    h = W x + (alpha / r) B A x;    every T steps:  W <- W + (alpha / r) B A,  A <- new,  B <- 0,  moments pruned

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight, and every parameter that is no matrix of an
attention or feed-forward block: embeddings, norms, biases, the head. A training loop calls
`restart(model, optimizer, step)` after step `step` of its optimizer. At inference and in storage: a full model. The
authors' learning rate goes to zero at each restart and is warmed up again. Their wrapper also starts A at zero, and
then nothing moves a pair before its first restart.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from peftonomy.backbones.modules import LINEAR

from . import _kit as kit
from . import lora

MOMENTS = ("exp_avg", "exp_avg_sq")


class ReLoRA(lora.LoRA):
    """The correction beside one weight, which can be merged and started again."""

    site: kit.Site

    @torch.no_grad()
    def restart(self) -> None:
        """Add the product to the weight, and start the factors again."""
        self.site.weight.add_(self.delta())         # (d_out, d_in)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B.zero_()


class Settings(kit.Child):
    """The schedule of the restarts. It has no tensors."""

    def __init__(self, restart_every: int, pruned: float, by_magnitude: bool):
        super().__init__()
        self.restart_every, self.pruned, self.by_magnitude = restart_every, pruned, by_magnitude


def apply(
    model: nn.Module, *, r: int = 128, alpha: float = 32.0, dropout: float = 0.1, restart_every: int = 5000,
    pruned: float = 0.999, by_magnitude: bool = False, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the matrices of the layers, and put a low-rank correction beside every targeted one."""
    kit.freeze(model)
    for weight in kit.weights(model):
        block = weight.role.partition(".")[0] in ("attn", "xattn", "mlp")
        matrix = weight.kind in LINEAR and weight.name.endswith(".weight")
        if weight.pretrained and not (block and matrix):
            weight.value.requires_grad_(True)
    for site in kit.sites(model, targets):
        kit.attach(site, "relora", ReLoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    kit.attach(model, "relora_schedule", Settings(restart_every, pruned, by_magnitude))
    return model


def restart(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> bool:
    """Merge and start again, if it is time after step `step` (counted from one). Returns whether it was."""
    [settings] = (child for child in kit.attached(model, "relora_schedule") if isinstance(child, Settings))
    if step <= settings.restart_every or step % settings.restart_every != 1 % settings.restart_every:
        return False
    for _, child in kit.at_sites(model, "relora", ReLoRA):
        child.restart()
        for parameter in (child.A, child.B):
            for moment in (optimizer.state[parameter][name] for name in MOMENTS):
                moment.mul_(kept(moment, settings.pruned, settings.by_magnitude))
    return True


def kept(moment: Tensor, pruned: float, by_magnitude: bool) -> Tensor:
    """Return the mask of the entries of a moment that a restart leaves as they are."""
    if not by_magnitude:
        return torch.rand_like(moment) > pruned
    sizes = moment.abs()
    return sizes > torch.quantile(sizes.flatten().float(), pruned).to(sizes)


def finish(model: nn.Module) -> nn.Module:
    """Merge for the last time."""
    kit.detach(model, "relora_schedule")
    return kit.fold(model, "relora")


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return finish(model)


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a module on `x`, restart a copy of it, and prune the `moment` by magnitude; for the vectors."""
    up = "mlp.up"
    output: Tensor = next(s for s, _ in kit.at_sites(model, "relora", ReLoRA) if s.role == up).module(inputs["x"])
    again = copy.deepcopy(model)
    there, child = next(pair for pair in kit.at_sites(again, "relora", ReLoRA) if pair[0].role == up)
    child.restart()
    moment = inputs["moment"]
    return {
        "output": output, "weight": there.weight, "B_after": child.B,
        "pruned": moment * kept(moment, inputs["share"].item(), by_magnitude=True),
    }  # fmt: skip
