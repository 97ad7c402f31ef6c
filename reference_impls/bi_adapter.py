"""Bi-AdaptFormer: adapters of one bit (jie2023precision; code_petl_vit#binary_adapter/adaptformer.py:Adapter).

    y <- y + s Q(W_up) dropout(relu(Q(W_down) x)),    Q(W) = mean + std (LEVEL sign((W - mean) / (std + 1e-5)))

with x the residual stream before the norm of the feed-forward block, y the layer's output, and mean and std those of
all entries of W. Gradients pass the sign as if it were the identity, and flow through mean and std.

Trained: W_down (bottleneck, d_model) and W_up (d_model, bottleneck), in full precision. Stored, and kept at inference:
a bit for each entry, and s_down and s_up (2,), the mean and std of each matrix. `finish` rounds.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from . import adaptformer

LEVEL = 0.6744897501960817
"""The size of a rounded entry: the upper quartile of the standard normal distribution."""


def rounded(w: Tensor) -> Tensor:
    """Return the two values of each entry, with the gradient of the entry itself."""
    mean, std = w.mean(), w.std()
    n = (w - mean) / (std + 1e-5)
    q = LEVEL * torch.sign(n.detach()) + n - n.detach()
    return q * std + mean


class BiAdapter(adaptformer.Beside):
    """The adapter of one layer. After `finish` its matrices are bits."""

    W_down: Tensor
    W_up: Tensor
    s_down: Tensor
    s_up: Tensor

    def __init__(self, d_model: int, *, bottleneck: int, scale: float, dropout: float):
        super().__init__()
        bound = 1 / math.sqrt(d_model)
        self.W_down = nn.Parameter(torch.empty(bottleneck, d_model).uniform_(-bound, bound))
        self.W_up = nn.Parameter(nn.init.trunc_normal_(torch.empty(d_model, bottleneck), std=0.001, a=-0.002, b=0.002))
        for name in ("down", "up"):
            self.register_buffer(f"s_{name}", self.statistics(name))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def statistics(self, name: str) -> Tensor:
        w: Tensor = getattr(self, f"W_{name}")
        return torch.stack([w.mean(), w.std()])

    def matrix(self, name: str) -> Tensor:
        w: Tensor = getattr(self, f"W_{name}")
        if w.dtype != torch.bool:
            return rounded(w)
        mean, std = getattr(self, f"s_{name}")
        matrix: Tensor = LEVEL * (2 * w.to(mean.dtype) - 1) * std + mean
        return matrix

    def delta(self, x: Tensor) -> Tensor:
        z = self.dropout(torch.relu(linear(x, self.matrix("down"))))            # (batch, n, bottleneck)
        return self.scale * linear(z, self.matrix("up"))                        # (batch, n, d_model)


def apply(
    model: nn.Module, *, bottleneck: int = 32, scale: float = 1.0, dropout: float = 0.1
) -> nn.Module:
    """Freeze the model and put an adapter beside every feed-forward block. Raises UsageError for a model of text."""
    return adaptformer.attach(
        model, "bi_adapter", lambda d_model: BiAdapter(d_model, bottleneck=bottleneck, scale=scale, dropout=dropout)
    )


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Round the matrices to bits for good."""
    for child in kit.attached(model, "bi_adapter"):
        assert isinstance(child, BiAdapter)
        for name in ("down", "up"):
            w: Tensor = getattr(child, f"W_{name}")
            if w.dtype != torch.bool:
                setattr(child, f"s_{name}", child.statistics(name))
                delattr(child, f"W_{name}")
                child.register_buffer(f"W_{name}", w > w.mean())
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return adaptformer.probe(model, inputs)
