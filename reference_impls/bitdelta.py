"""BitDelta: one-bit quantisation of the change of a fine-tuned model (liu2024bitdelta; code_bitdelta).

    h = W_0 x + alpha (2 M - 1) x,    M = 1 where W_fine >= W_0, else 0;    alpha = mean |W_fine - W_0| at the start

Given: a model that was fine-tuned from the same pretrained model. `combine` compares it with the weights. Trained:
alpha, one number for every matrix (rows, columns) of the layers, usually such that the outputs equal those of the
fine-tuned model. M holds one bit for each entry. All other parameters get the values of the fine-tuned model. At
inference the signs, times alpha, are added to W_0.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from peftonomy.backbones.modules import LINEAR

from . import _kit as kit
from . import _merging


class Product(torch.autograd.Function):
    """x times a matrix of signs, (..., d_in) -> (..., d_out). The signs are made numbers again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor) -> Tensor:
        ctx.save_for_backward(bits)
        return x @ signs(bits, x)                                   # bits: (d_in, d_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,), (bits,) = gradients, ctx.saved_tensors
        return g @ signs(bits, g).T, None


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """Return 1 and -1 for the bits 1 and 0."""
    return bits.to(like.dtype).mul_(2).sub_(1)


class Delta(kit.Child):
    """The compressed change of one matrix."""

    M: Tensor

    def __init__(self, weight: Tensor, *, transposed: bool):
        super().__init__()
        self.transposed = transposed                                # a Conv1D has its weight as (d_in, d_out)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.register_buffer("M", torch.ones_like(weight, dtype=torch.bool))

    def take(self, change: Tensor) -> None:
        """Compress a change (rows, columns). It is overwritten."""
        self.M.copy_(change >= 0)
        self.alpha.copy_(change.abs_().mean())

    def behind(self, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        x, kind = args[0], args[0].device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bits = self.M if self.transposed else self.M.T
        d = cast(Tensor, Product.apply(x, bits))                    # type: ignore[no-untyped-call]
        return (y + d * self.alpha).to(y.dtype)


def matrices(model: nn.Module) -> Iterator[kit.Weight]:
    """The weights of the linear modules in the layers."""
    for weight in kit.weights(model):
        if weight.kind in LINEAR and weight.layer is not None and weight.name.endswith(".weight"):
            yield weight


def apply(model: nn.Module) -> nn.Module:
    """Freeze the model and put a change of zero beside every matrix; `combine` then fills it."""
    kit.freeze(model)
    for weight in [*matrices(model)]:
        module = model.get_submodule(weight.name.removesuffix(".weight"))
        child = Delta(weight.value, transposed=weight.kind == "conv1d")
        kit.attach(module, "bitdelta.weight", child).append(module.register_forward_hook(child.behind))
    return model


@torch.no_grad()
def combine(model: nn.Module, inputs: Sequence[_merging.Input]) -> nn.Module:
    """Take over one fine-tuned model: the matrices of its layers as signs and a scale, all else as it is."""
    [given] = inputs
    children = {id(child.host): child for child in kit.attached(model, "bitdelta") if isinstance(child, Delta)}
    for name, value in _merging.own(model).items():
        path, _, suffix = name.rpartition(".")
        child = children.get(id(model.get_submodule(path))) if suffix == "weight" else None
        if child is None:
            value.copy_(given[name])
        else:
            child.take(_merging.change(given, name, value))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the compressed changes to the weights."""
    for child in kit.attached(model, "bitdelta"):
        assert isinstance(child, Delta)
        weight = cast(Tensor, child.host.weight)
        weight.add_(signs(child.M, weight) * child.alpha)
    kit.detach(model, "bitdelta")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compress the recorded change of one matrix and run its module; for the golden vectors."""
    [site] = kit.sites(model, ["mlp.up"])
    [child] = (c for c in kit.attached(model, "bitdelta") if c.host is site.module and isinstance(c, Delta))
    with torch.no_grad():
        child.take(inputs["fine"] - site.weight)
    output: Tensor = site.module(inputs["x"])
    [gradient] = torch.autograd.grad((output * inputs["probe"]).sum(), [child.alpha], retain_graph=True)
    return {"output": output, "signs": signs(child.M, output), "scale": child.alpha, "gradient": gradient}
