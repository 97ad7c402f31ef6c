"""Intrinsic SAID: structure-aware intrinsic dimension (aghajanyan2021intrinsic).

    theta_i = theta0_i + scale * P_i v,    P_i = H G Pi H B, cut to the sizes of theta_i and v, norm-preserving

Trained: v (d - n_layers - 1), which all weights share, one scale for every layer and one for all that lies outside.
P_i is a Fastfood transform: signs B, Walsh-Hadamard H, permutation Pi, normal factors G, drawn anew from the seed
and the parameter's number each time, so that nothing of it is held. Stored: v, the scales and the seed. At
inference the change is added to the weights. The authors' code has one scale per parameter tensor, holds the drawn
numbers, and in its backward pass divides each H by the root of its size.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import parametrize

from . import _kit as kit


class Space(kit.Child):
    """What the whole model shares."""

    seed: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.v = nn.Parameter(torch.zeros(size))
        self.scale_outside = nn.Parameter(torch.ones(1))
        self.register_buffer("seed", torch.randint(2**32, (1,)))


class Layer(kit.Child):
    """How far one layer moves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Moved(nn.Module):
    """A parametrisation: the weight is its pretrained value and what the shared vector makes of it."""

    space: Space                # not submodules
    layer: Layer | None

    def __init__(self, space: Space, layer: Layer | None, number: int):
        super().__init__()
        kit.share(self, space=space, layer=layer)
        self.number = number

    def delta(self, shape: torch.Size) -> Tensor:
        scale = self.space.scale_outside if self.layer is None else self.layer.scale
        seed = int(self.space.seed) + self.number
        moved: Tensor = Projected.apply(self.space.v, scale, shape.numel(), seed)      # type: ignore[no-untyped-call]
        return moved.view(shape)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.delta(weight.shape)


def hadamard(x: Tensor) -> Tensor:
    """H x for the Hadamard matrix of +-1 in Sylvester's order, (n,) -> (n,), n a power of two."""
    for _ in range(len(x).bit_length() - 1):
        a, b = x.view(2, -1)
        x = torch.stack([a + b, a - b], 1).flatten()    # the topmost bit of the position becomes the lowest
    return x


def drawn(size: int, seed: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a projection to this size is made of: signs, an order and normal numbers, (n,) each, n a power of two."""
    n = 1 << (size - 1).bit_length()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n,), generator=generator).to(like) * 2 - 1
    order = torch.randperm(n, generator=generator).to(like.device)
    return signs, order, torch.randn(n, generator=generator, dtype=torch.float64).to(like)


def fastfood(v: Tensor, size: int, seed: int) -> Tensor:
    """P v, (d,) -> (size,), of about the norm of v: Fastfood on the next power of two."""
    return mix(v, size, *drawn(size, seed, v))


def mix(v: Tensor, size: int, signs: Tensor, order: Tensor, normal: Tensor) -> Tensor:
    """P v for the projection that is made of these."""
    mixed = hadamard(signs * pad(v, (0, len(signs) - len(v))))[order]       # (d,) -> (n,); cut where v is longer
    norm: Tensor = size**0.5 * normal.norm()
    return hadamard(normal * mixed)[:size] / norm                           # (n,) -> (size,)


def back(g: Tensor, d: int, seed: int) -> Tensor:
    """P^T g, (size,) -> (d,)."""
    signs, order, normal = drawn(len(g), seed, g)
    mixed = normal * hadamard(pad(g, (0, len(signs) - len(g))))             # (size,) -> (n,)
    spread = signs * hadamard(torch.zeros_like(mixed).index_copy(0, order, mixed))
    norm: Tensor = len(g)**0.5 * normal.norm()
    return pad(spread, (0, d - len(spread))) / norm                         # (n,) -> (d,)


class Projected(torch.autograd.Function):
    """s P v, which keeps v alone: P is drawn again for the gradients."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, size: int, seed: int) -> Tensor:
        ctx.save_for_backward(v, scale)
        ctx.seed = seed
        return scale * fastfood(v, size, seed)                              # (d,) -> (size,)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (g,) = gradients                                                    # (size,)
        v, scale = ctx.saved_tensors
        return scale * back(g, len(v), ctx.seed), (g @ fastfood(v, len(g), ctx.seed))[None], None, None


def apply(model: nn.Module, *, d: int = 20000) -> nn.Module:
    """Freeze the model and let a vector of d numbers, scales included, move all of it."""
    kit.freeze(model)
    weights, blocks = kit.weights(model), kit.blocks(model, "layer")
    space = Space(d - len(blocks) - 1)
    kit.attach(model, "intrinsic_said", space)
    layers = {(block.stack, block.layer): Layer() for block in blocks}
    for block in blocks:
        kit.attach(block.module, "intrinsic_said", layers[block.stack, block.layer])
    numbers = {id(weight.value): (i, weight) for i, weight in enumerate(weights) if weight.pretrained}
    for module, name, value in list(_parameters(model)):
        if id(value) in numbers:        # tied weights have the same number wherever they occur
            number, weight = numbers[id(value)]
            layer = None if weight.layer is None else layers[weight.stack, weight.layer]
            parametrize.register_parametrization(module, name, Moved(space, layer, number), unsafe=True)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Write the moved weights in the place of the pretrained ones."""
    moved: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name, entry in list(cast(nn.ModuleDict, module.parametrizations).items()):
                original = cast(nn.Parameter, entry.original)
                moved[id(original)] = original, getattr(module, name).clone()
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    for original, value in moved.values():
        original.copy_(value)
    kit.detach(model, "intrinsic_said")
    return model


def _parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(module, its name for it, parameter), tied ones wherever they occur."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            yield module, name, value


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the recorded weight `x` by the recorded projection; for the golden vectors."""
    [space] = [child for child in kit.attached(model, "intrinsic_said") if isinstance(child, Space)]
    [layer] = [child for child in kit.attached(model, "intrinsic_said") if isinstance(child, Layer)]
    x = inputs["x"]
    return {"output": x + layer.scale * mix(space.v, len(x), inputs["signs"], inputs["order"], inputs["normal"])}
