"""NOLA: LoRA's factors as linear combinations of random matrices (koohpayegani2024nola; code_nola).

    h = W_0 x + (alpha / r) B A x,    A = A_0 + sum over i of a_i A_i,    B = sum over j of b_j B_j

Trained: the coefficients a (k) and b (k) of each targeted weight; both start at zero. Frozen: A_0 (r, d_in), and the
bases A_i (r, d_in) and B_j (d_out, r), uniform within 1 / sqrt(k), which are drawn from the seed again in every pass.
A_0 is drawn from torch's generator, so a seed stores it too. At inference the product is added to W_0. The authors'
checkpoints also hold A_0, and their merge leaves the coefficients out.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit


class Space(kit.Child):
    """The seed of all bases."""

    seed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.randint(2**32, (1,)))


def drawn(k: int, rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """Return k random matrices (k, rows, columns) of the type and on the device of `like`."""
    generator = torch.Generator(like.device).manual_seed(seed)
    bound = 1 / math.sqrt(k)
    return like.new_empty(k, rows, columns).uniform_(-bound, bound, generator=generator)


class Combined(torch.autograd.Function):
    """A linear combination of bases. Autograd saves the coefficients only: the gradient draws the bases again."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(coefficients)
        ctx.draw = draw
        bases = draw(coefficients)                                              # (k, rows, columns)
        with torch.autocast(coefficients.device.type, enabled=False):
            return (coefficients[None] @ bases.flatten(1)).view(bases.shape[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,) = gradients                                                        # (rows, columns)
        [coefficients] = ctx.saved_tensors
        return (g.reshape(1, -1) @ ctx.draw(coefficients).flatten(1).T)[0], None


class NOLA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    A_0: Tensor
    space: Space        # not a submodule

    def __init__(self, site: kit.Site, number: int, space: Space, *, r: int, k: int, alpha: float, dropout: float):
        super().__init__()
        kit.share(self, space=space)
        self.number, self.scale = number, alpha / r
        self.sizes = (r, site.d_in), (site.d_out, r)
        self.register_buffer("A_0", nn.init.kaiming_uniform_(torch.empty(r, site.d_in), a=math.sqrt(5)))
        self.a = nn.Parameter(torch.zeros(k))
        self.b = nn.Parameter(torch.zeros(k))
        self.dropout = nn.Dropout(dropout)

    def bases(self, side: int, like: Tensor) -> Tensor:
        """Draw the bases of A (side 0) or of B (side 1)."""
        return drawn(len(like), *self.sizes[side], int(self.space.seed) + 2 * self.number + side, like)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (r, d_in) and B (d_out, r)."""
        a: Tensor = Combined.apply(self.a, partial(self.bases, 0))          # type: ignore[no-untyped-call]
        b: Tensor = Combined.apply(self.b, partial(self.bases, 1))           # type: ignore[no-untyped-call]
        return self.A_0 + a, b

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.factors()
        low: Tensor = self.dropout(x) @ a.T                                     # (..., d_in) -> (..., r)
        return y + self.scale * (low @ b.T)                                     # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        a, b = self.factors()
        return b @ a * self.scale                                               # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 16, k: int = 512, alpha: float = 4.0, dropout: float = 0.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put factors that are combined from random matrices beside every targeted weight."""
    kit.freeze(model)
    space = Space()
    kit.attach(model, "nola", space)
    for number, site in enumerate(kit.sites(model, targets)):
        kit.attach(site, "nola", NOLA(site, number, space, r=r, k=k, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the products of the factors to the weights."""
    return kit.fold(model, "nola")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the layer with recorded bases; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "nola", NOLA)
    vars(child)["bases"] = lambda side, like: inputs["bases_B" if side else "bases_A"]
    output: Tensor = site.module(inputs["x"])
    return output
