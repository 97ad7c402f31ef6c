"""PEANuT: parameter-efficient adaptation with weight-aware neural tweakers (zhong2024peanut).

    h = W_0 x + s B f(W_0)^T x,    f(W_0) = sigma(W_0^T A^T), then `depth` layers in and out with residuals

Trained on every targeted weight: A (r, d_out), B (d_out, r), and with depth > 0 as many enc and dec (r, r). At
inference nothing is left: the correction is added to W_0. B starts at zero. As in peft and the authors' code for
understanding tasks the network reads the columns of W_0; their code for language models reads its rows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from . import _kit as kit

ACTIVATIONS = {"relu": torch.relu, "gelu": gelu, "silu": silu, "tanh": torch.tanh}


class Tweaker(kit.Child):
    """The network of one weight of shape (d_out, d_in)."""

    site: kit.Site

    def __init__(self, d_out: int, *, r: int, depth: int, act_fn: str, scaling: float):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_out))
        self.enc = nn.ParameterList(torch.empty(r, r) for _ in range(depth))
        self.dec = nn.ParameterList(torch.empty(r, r) for _ in range(depth))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        for weight in (self.A, *self.enc, *self.dec):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.act, self.scaling = ACTIVATIONS[act_fn], scaling

    def hidden(self) -> Tensor:
        weight = self.site.weight.detach()
        h: Tensor = self.act(weight.T @ self.A.T)                   # (d_in, r)
        outer = []
        for enc in self.enc:
            outer.append(h)
            h = self.act(h @ enc.T)
        for dec in self.dec:
            h = self.act(h @ dec.T) + outer.pop()
        return h

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scaling * (x @ self.hidden() @ self.B.T)    # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        delta: Tensor = self.scaling * (self.B @ self.hidden().T)   # (d_out, d_in)
        return delta


def apply(
    model: nn.Module, *, r: int = 8, depth: int = 0, act_fn: str = "relu", scaling: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and put a network on every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "peanut", Tweaker(site.d_out, r=r, depth=depth, act_fn=act_fn, scaling=scaling))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Compute the corrections one last time and add them to the weights."""
    return kit.fold(model, "peanut")
