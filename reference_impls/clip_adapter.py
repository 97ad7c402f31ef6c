"""CLIP-Adapter: better vision-language models with feature adapters (gao2021clipadapter; code_clip_adapter).

    f <- ratio * relu(W_up relu(W_down f)) + (1 - ratio) * f

with f the features of an image (or a text) behind the projection to the shared space, before they are normalised.

Trained, and kept at inference: W_down (d / reduction, d) and W_up (d, d / reduction), both uniform as torch starts a
linear layer. There are no biases. Everything that comes before can be computed once.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class Adapter(kit.Child):
    """The network behind one projection."""

    site: kit.Site

    def __init__(self, d: int, *, reduction: int, ratio: float):
        super().__init__()
        self.W_down = nn.Parameter(torch.empty(d // reduction, d))
        self.W_up = nn.Parameter(torch.empty(d, d // reduction))
        for weight in (self.W_down, self.W_up):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.ratio = ratio

    def after(self, _: Tensor, f: Tensor) -> Tensor:
        z = torch.relu(linear(f, self.W_down))                      # (n, d / reduction)
        z = torch.relu(linear(z, self.W_up))                        # (n, d)
        return self.ratio * z + (1 - self.ratio) * f


def apply(
    model: nn.Module, *, reduction: int = 4, ratio: float = 0.2, targets: tuple[str, ...] = ("head.image",),
    name: str = "clip_adapter",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put an adapter behind its projections. Raises UsageError for a model without them."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, Adapter(site.d_out, reduction=reduction, ratio=ratio))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors: the normalised features."""
    [site] = kit.sites(model, ["head.image"])
    features = site.module(inputs["x"])
    normalised: Tensor = features / features.norm(dim=-1, keepdim=True)
    return normalised
