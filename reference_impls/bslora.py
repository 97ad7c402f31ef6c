"""BSLoRA: bi-share low-rank adaptation (zhou2025bslora; code_bslora#peft/tuners/share_lora/layer.py:Linear).

    h = W_0 x + s (B A + (v_l kron B_l)(u_l kron A_l) + (v_m kron B_m)(u_m kron A_m)) x

Trained: beside every targeted weight A (r_local, d_in), B (d_out, r_local) and the vectors u (d_in / share_size) and v
(d_out / share_size) of both shared pairs; in every layer A_l (r_intra, share_size) and B_l (share_size, r_intra); in
the model A_m (r_inter, share_size) and B_m (share_size, r_inter). Every B starts at zero. At inference the sum is added
to W_0. This is the authors' default way to enlarge the shared factors, kron.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import _kit as kit


class Pair(kit.Child):
    """Two factors. suffix: ends their names."""

    def __init__(self, d_in: int, d_out: int, r: int, suffix: str = ""):
        super().__init__()
        first = nn.init.kaiming_uniform_(torch.empty(r, d_in), a=math.sqrt(5))
        self.register_parameter(f"A{suffix}", nn.Parameter(first))
        self.register_parameter(f"B{suffix}", nn.Parameter(torch.zeros(d_out, r)))


class BSLoRA(Pair):
    """The three corrections beside one weight of shape (d_out, d_in)."""

    of_layer: Pair      # not a submodule
    of_model: Pair      # not a submodule

    def __init__(
        self, layer: Pair, model: Pair, d_in: int, d_out: int, *, r: int, size: int, scale: float, dropout: float
    ):
        super().__init__(d_in, d_out, r)
        kit.share(self, of_layer=layer, of_model=model)
        if d_in % size or d_out % size:
            raise ValueError(f"share_size = {size} must divide both {d_in} and {d_out}")
        for name in "lm":
            bound = (d_in // size) ** -0.5
            u, v = torch.empty(d_in // size).uniform_(-bound, bound), torch.empty(d_out // size).uniform_(-1, 1)
            self.register_parameter(f"u_{name}", nn.Parameter(u))
            self.register_parameter(f"v_{name}", nn.Parameter(v))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the factors of the three corrections, (r, d_in) and (d_out, r)."""
        yield self.get_parameter("A"), self.get_parameter("B")
        for name, pair in (("l", self.of_layer), ("m", self.of_model)):
            u, v = self.get_parameter(f"u_{name}"), self.get_parameter(f"v_{name}")
            first = pair.get_parameter(f"A_{name}")[:, None] * u[:, None]               # (r, copies, share_size)
            second = v[:, None, None] * pair.get_parameter(f"B_{name}")                 # (copies, share_size, r)
            yield first.flatten(1), second.flatten(0, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        for number, (a, b) in enumerate(self.pairs()):
            low: Tensor = (x if number else self.dropout(x)) @ a.T  # (..., d_in) -> (..., r)
            y = y + self.scale * (low @ b.T)                        # (..., r) -> (..., d_out)
        return y

    def delta(self) -> Tensor:
        changes = torch.stack([b @ a for a, b in self.pairs()])
        return self.scale * changes.sum(0)                          # (d_out, d_in)


def apply(
    model: nn.Module, *, r_local: int = 2, r_intra: int = 4, r_inter: int = 8, share_size: int = 256,
    scale: float = 2.0, dropout: float = 0.05, targets: tuple[str, ...] = ("mlp.*",),
) -> nn.Module:
    """Freeze the model, and put corrections of the weight, the layer and the model beside every targeted weight."""
    kit.freeze(model)
    common = Pair(share_size, share_size, r_inter, "_m")
    kit.attach(model, "bslora", common)
    layers = {}
    for block in kit.blocks(model, "layer"):
        layers[block.stack, block.layer] = Pair(share_size, share_size, r_intra, "_l")
        kit.attach(block.module, "bslora", layers[block.stack, block.layer])
    for site in kit.sites(model, targets):
        child = BSLoRA(
            layers[site.stack, site.layer or 0], common, site.d_in, site.d_out, r=r_local, size=share_size,
            scale=scale, dropout=dropout,
        )
        kit.attach(site, "bslora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "bslora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return torch.cat([site.module(inputs["x"]) for site, _ in kit.at_sites(model, "bslora", BSLoRA)], dim=-1)
