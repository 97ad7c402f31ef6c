"""VeLoRA: memory-efficient training using rank-1 sub-token projections (miles2024velora), with LoRA.

    h = W_0 x + (alpha / r) B A x,   dL/dA = g^T x'  with  x' = scale (v v^T x_1, ..., v v^T x_n),   x = (x_1, ..., x_n)

Trained: A (r, d_in) and B (d_out, r), as in LoRA. The forward pass is LoRA's; for A's gradient training keeps one
number v^T x_i for each of n groups of the input's features instead of the input. v (ceil(d_in / n)) is the mean of all
sub-tokens of the first batch, at unit length, which `calibrate` finds; it is not trained, and goes when training has
ended (`finish`). At inference nothing is left: the product is added to W_0. peft finds v anew in every step unless told
otherwise.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


class Compressed(torch.autograd.Function):
    """x A^T, which keeps v^T x_i for every group i of the input's features for the gradient of A."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, v: Tensor, n: int, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(groups(x, n) @ v, a, v)
        return x @ a.T                                              # (..., d_in) -> (..., r)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (g,) = gradients                                            # (..., r)
        kept, a, v = ctx.saved_tensors                              # (..., n), (r, d_in), (d_in / n)
        x = ctx.scale * (kept[..., None] * v).flatten(-2)[..., : a.shape[1]]        # (..., d_in)
        # under autocast A is float32 and the rest is not
        return g @ a.to(g.dtype), g.flatten(0, -2).T @ x.flatten(0, -2).to(g.dtype), None, None, None


def groups(x: Tensor, n: int) -> Tensor:
    """(..., d_in) -> (..., n, ceil(d_in / n)), the last one filled up with zeros."""
    parts: Tensor = nn.functional.pad(x, (0, -x.shape[-1] % n)).unflatten(-1, (n, -1))
    return parts


class VeLoRA(lora.LoRA):
    """The correction beside one weight, and the direction onto which its input is compressed for the backward pass."""

    v: Tensor

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, num_groups: int, scale: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.num_groups, self.velora_scale = num_groups, scale
        width = -(-d_in // num_groups)
        self.register_buffer("v", torch.full((width,), width**-0.5))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return super().after(x, y)
        x = self.dropout(x)
        low: Tensor = Compressed.apply(x, self.A, self.v, self.num_groups, self.velora_scale)  # type: ignore[no-untyped-call]
        return y + self.scale * (low @ self.B.T)                    # (..., r) -> (..., d_out)


def apply(
    model: nn.Module, *, r: int = 32, alpha: float = 16.0, dropout: float = 0.1, num_groups: int = 32,
    scale: float = 0.1, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction that remembers little beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = VeLoRA(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, num_groups=num_groups, scale=scale
        )  # fmt: skip
        kit.attach(site, "velora", child)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Point every v at the mean of the sub-tokens that the losses' forward passes show, one batch in the paper."""
    children: dict[nn.Module, list[VeLoRA]] = {}
    for site, child in kit.at_sites(model, "velora", VeLoRA):
        children.setdefault(site.module, []).append(child)
    sums: dict[nn.Module, Tensor] = {}

    def see(host: nn.Module, x: Tensor) -> None:
        mean = groups(x, children[host][0].num_groups).mean((0, 1))     # (positions, n, width) -> (width,)
        sums[host] = sums.get(host, torch.zeros_like(mean)) + mean

    _starts.read(list(children), losses, see)
    for host, total in sums.items():
        for child in children[host]:
            child.v.copy_(nn.functional.normalize(total, dim=0))
    return model


def finish(model: nn.Module) -> nn.Module:
    """Drop the directions, which only training needs."""
    for _, child in kit.at_sites(model, "velora", VeLoRA):
        del child.v
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="velora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. `calibrate` reads the first batch too."""
    [(site, child)] = kit.at_sites(model, "velora", VeLoRA)
    calibrate(model, (site.module(inputs["x"]) for _ in range(1)))
    return {"output": site.module(inputs["x"]), "direction": child.v}
