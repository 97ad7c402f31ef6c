"""LoReFT: low-rank linear subspace representation finetuning (wu2024reft#section-3.2).

    h <- h + R^T (W h + b - R h),    R R^T = I,    at the first and the last tokens of the input

Behind every layer, and at a few positions only, what the hidden state h holds in the r directions R is replaced by
what W h + b says. Trained for each layer: R and W (r, d_model) and b (r); one set for the first
`prefix_positions` tokens and one for the last `suffix_positions`, or with `tied` one for both. At inference all of it
remains, and works while the input is read: tokens generated from a cache are left alone.

R is kept as free numbers and its rows made orthonormal whenever it is read, by a QR decomposition; once
orthonormal it stays what it is. pyreft and the adapters library use torch's parametrisation of orthogonal matrices,
which holds a square matrix besides. The paper writes a set for every position where this has two; its code, and the
counts that it prints, have two. The authors count the last tokens of the prompt, without the answer; this has only the
input to go by, so in training the answer belongs to it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._prompt import by_name, cached

Ends = tuple[Tensor, Tensor]
"""Which positions (batch, n) belong to the first and to the last tokens."""


class Positions(kit.Child):
    """Where the first and the last tokens of one stack's present input are."""

    def __init__(self, prefix: int, suffix: int):
        super().__init__()
        self.prefix, self.suffix = prefix, suffix
        self.mask: Tensor | None = None
        self.done = False

    def look(self, stack: nn.Module, args: Any, kwargs: Any) -> None:
        given = by_name(stack, args, kwargs)
        self.mask, self.done = given.get("attention_mask"), cached(given)

    def find(self, h: Tensor) -> Ends:
        real = torch.ones(h.shape[:2], dtype=torch.bool) if self.mask is None else self.mask.bool()     # (batch, n)
        count = real.sum(1, keepdim=True)                           # (batch, 1)
        place = real.cumsum(1)                                      # (batch, n), from 1 on
        half = count // 2                                           # no token is in both; an odd one is in neither
        prefix, suffix = half.clamp(max=self.prefix), half.clamp(max=self.suffix)
        return real & (place <= prefix), real & (place > count - suffix)


class Intervention(kit.Child):
    """What is done behind one layer."""

    positions: Positions        # not a submodule

    def __init__(self, d: int, positions: Positions, *, r: int, tied: bool, dropout: float):
        super().__init__()
        kit.share(self, positions=positions)
        self.tied = tied
        sets = 1 if tied else min(positions.prefix, 1) + min(positions.suffix, 1)
        self.R = nn.ParameterList(nn.init.orthogonal_(torch.empty(r, d)) for _ in range(sets))
        self.W = nn.ParameterList(nn.init.kaiming_uniform_(torch.empty(r, d), a=math.sqrt(5)) for _ in range(sets))
        self.b = nn.ParameterList(torch.empty(r).uniform_(-(d**-0.5), d**-0.5) for _ in range(sets))
        self.dropout = nn.Dropout(dropout)

    def directions(self, i: int) -> Tensor:
        q, r = torch.linalg.qr(self.R[i].T)                         # (d_model, r) and (r, r)
        rows: Tensor = (q * r.diagonal().sign()).T                  # (r, d_model); orthonormal rows stay as they are
        return rows

    def edit(self, h: Tensor, i: int) -> Tensor:
        R = self.directions(i)
        return h + (linear(h, self.W[i], self.b[i]) - linear(h, R)) @ R     # (batch, n, r) -> (batch, n, d_model)

    def behind(self, h: Tensor) -> Tensor:
        if self.positions.done:
            return h
        first, last = self.positions.find(h)
        wanted = ((first, self.positions.prefix), (last, self.positions.suffix))
        places = [first | last] if self.tied else [place for place, length in wanted if length]
        for i, place in enumerate(places):
            h = torch.where(place[..., None], self.dropout(self.edit(h, i)), h)     # (batch, n, d_model)
        return h


def intervene(
    model: nn.Module, kind: type[Intervention], name: str,
    *, r: int, prefix_positions: int, suffix_positions: int, tied: bool, dropout: float,
) -> nn.Module:
    """Freeze the model and put an intervention of this kind behind every layer."""
    kit.freeze(model)
    base = kit.base(model)
    positions: dict[str, Positions] = {}
    for layer in kit.blocks(model, "layer"):
        if layer.stack not in positions:
            stack = getattr(base, layer.stack) if hasattr(base, "decoder") else base
            positions[layer.stack] = Positions(prefix_positions, suffix_positions)
            hooks = kit.attach(stack, name, positions[layer.stack])
            hooks.append(stack.register_forward_pre_hook(positions[layer.stack].look, with_kwargs=True))
        child = kind(layer.dims["d_model"], positions[layer.stack], r=r, tied=tied, dropout=dropout)
        kit.attach(layer.module, name, child).append(kit.on_layer_output(layer.module, child.behind))
    return model


def apply(
    model: nn.Module, *, r: int = 8, prefix_positions: int = 7, suffix_positions: int = 7, tied: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """Freeze the model and put an intervention behind every layer."""
    return intervene(
        model, Intervention, "loreft",
        r=r, prefix_positions=prefix_positions, suffix_positions=suffix_positions, tied=tied, dropout=dropout,
    )  # fmt: skip


def probe(model: nn.Module, inputs: dict[str, Tensor], name: str = "loreft") -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [positions] = [child for child in kit.attached(model, name) if isinstance(child, Positions)]
    [child] = [child for child in kit.attached(model, name) if isinstance(child, Intervention)]
    positions.mask = inputs["mask"]
    first, last = positions.find(inputs["mask"][..., None])
    positions.mask = None
    return {"output": child.behind(inputs["x"]), "first": first, "last": last}
