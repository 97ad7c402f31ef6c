"""RoSA: robust adaptation by a low-rank and a sparse correction (nikdan2024rosa; code_rosa, code_peft_rosa).

    h = W_0 x + (alpha / r) B A x + S x,    S zero but at floor(density d_in d_out) fixed positions

Trained: A (r, d_in), B (d_out, r) and the values of S, whose learning rate is lower. `calibrate` chooses the positions
with the largest squared gradient of the weight, averaged over the last losses. The losses before train A and B, which
then start anew. Before, the positions are the first ones. Stored: A, B, the values and their positions. At inference
all of it is added to W_0. The authors' code has sparse kernels, here S is made dense for each product.
"""

import copy
import math
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


def dense(values: Tensor, positions: Tensor, rows: int, columns: int) -> Tensor:
    """Return the sparse matrix (rows, columns) with these values at these positions of the flattened matrix."""
    return values.new_zeros(rows * columns).index_put_((positions,), values).view(rows, columns)


class Product(torch.autograd.Function):
    """x S^T for a sparse S. Autograd saves its values, and the matrix is made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, positions: Tensor, rows: int) -> Tensor:
        to_x, to_values, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if to_values else None, values if to_x else None, positions)
        ctx.shape = rows, x.shape[-1]
        return x @ dense(values, positions, *ctx.shape).T                       # (..., d_in) -> (..., d_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (g,) = gradients                                                        # (..., d_out)
        x, values, positions = ctx.saved_tensors
        to_x = None if values is None else g @ dense(values, positions, *ctx.shape)
        to_values = None if x is None else (g.flatten(0, -2).T @ x.flatten(0, -2)).flatten()[positions]
        return to_x, to_values, None, None


def sparse_product(x: Tensor, values: Tensor, positions: Tensor, rows: int) -> Tensor:
    """Return x S^T, (..., rows), under autocast in its type."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, values = x.to(torch.get_autocast_dtype(kind)), values.to(torch.get_autocast_dtype(kind))
    return cast(Tensor, Product.apply(x, values, positions, rows))     # type: ignore[no-untyped-call]


class RoSA(lora.LoRA):
    """The two corrections beside one weight of shape (d_out, d_in)."""

    positions: Tensor

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, density: float, lr_ratio: float
    ):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        count = math.floor(density * (d_in * d_out))
        if count < 1:
            raise ValueError(f"density {density} leaves no entry of a weight of {d_out} x {d_in}")
        self.values = nn.Parameter(torch.zeros(count))
        self.register_buffer("positions", torch.arange(count))
        self.shape, self.lr_ratio = (d_out, d_in), lr_ratio

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        y = super().after(x, y)
        return y + sparse_product(x, self.values, self.positions, y.shape[-1])

    def delta(self) -> Tensor:
        return super().delta() + dense(self.values, self.positions, *self.shape)         # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 16.0, dropout: float = 0.05, density: float = 0.018,
    lr_ratio: float = 3.5, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put both corrections beside every targeted weight; `calibrate` chooses the positions."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = RoSA(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, density=density, lr_ratio=lr_ratio
        )
        kit.attach(site, "rosa", child)
    return model


def scores(model: nn.Module, losses: Iterable[Tensor], gradients: int, lr: float) -> list[Tensor]:
    """Return the mean squared gradient (d_out, d_in) of each weight over the last losses. A and B learn from all."""
    pairs = list(kit.at_sites(model, "rosa", RoSA))
    factors = [factor for _, child in pairs for factor in (child.A, child.B)]
    optimizer = torch.optim.AdamW(factors, lr=lr, weight_decay=0.0)
    hosts = list(dict.fromkeys(site.module for site, _ in pairs))
    weights = [host.weight.requires_grad_(True) for host in hosts]
    last: deque[list[Tensor]] = deque(maxlen=gradients)
    for loss in losses:
        found = torch.autograd.grad(loss, [*weights, *factors])
        last.append([gradient.square() for gradient in found[: len(weights)]])
        for factor, gradient in zip(factors, found[len(weights) :], strict=True):
            factor.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    for weight in weights:
        weight.requires_grad_(False)
    means = {host: torch.stack(squares).mean(0) for host, *squares in zip(hosts, *last, strict=True)}
    return [_starts.part(site, means[site.module]) for site, _ in pairs]


def calibrate(model: nn.Module, losses: Iterable[Tensor], gradients: int = 1, lr: float = 7e-4) -> nn.Module:
    """Choose the positions of S by the last `gradients` losses, after the others have trained A and B."""
    children = [child for _, child in kit.at_sites(model, "rosa", RoSA)]
    starts = [(child.A.detach().clone(), child.B.detach().clone()) for child in children]
    found = scores(model, losses, gradients, lr)
    with torch.no_grad():
        for child, (a, b), score in zip(children, starts, found, strict=True):
            child.A.copy_(a)
            child.B.copy_(b)
            child.positions.copy_(score.flatten().topk(len(child.values)).indices.sort().values)
    return model


def parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the values at `lr`, the factors at `lr_ratio` times that."""
    children = [child for _, child in kit.at_sites(model, "rosa", RoSA)]
    return [
        {"params": [child.values for child in children], "lr": lr},
        {"params": [factor for c in children for factor in (c.A, c.B)], "lr": lr * children[0].lr_ratio},
    ]


def merge(model: nn.Module) -> nn.Module:
    """Add both corrections to the weights."""
    return kit.fold(model, "rosa")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and score its entries by the losses sum(output * weights) of `data`; for the vectors."""
    [(site, child)] = kit.at_sites(model, "rosa", RoSA)
    output: Tensor = site.module(inputs["x"])
    trial = copy.deepcopy(model)
    host, count = trial.get_submodule(site.path), len(inputs["data"])
    losses = ((host(x) * w).sum() for x, w in zip(inputs["data"], inputs["weights"], strict=True))
    [score] = scores(trial, losses, count, 0.0)
    chosen = torch.zeros_like(score).flatten().index_fill(0, score.flatten().topk(len(child.values)).indices, 1.0)
    return {"output": output, "scores": score, "mask": chosen.view_as(score)}
