"""JoLA: joint localization and activation editing (lai2025jola; code_jola).

    z <- (1 + g2 A) * z + g1 v    for the output z of every attention head, in front of the output projection
    g = clamp(1.2 sigmoid((logit(u) + log_g) / 0.33) - 0.1, 0, 1),  u uniform;    in evaluation sigmoid(log_g)

Trained, for each head: scale A and offset v (head_dim), and the parameters log_g2 and log_g1 of their gates. In
training the gates are random. `penalty` is the term of the loss that closes them: the caller adds it. At inference all
of it stays. The authors' code leaves the output layer of the language model trainable; here the model is frozen.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit

LOW, HIGH, TEMPERATURE, EPS = -0.1, 1.1, 0.33, 1e-6


class Edit(kit.Child):
    """The edits of one attention's heads."""

    def __init__(self, d_in: int, n_heads: int):
        super().__init__()
        self.A = nn.Parameter(torch.empty(n_heads, d_in // n_heads).normal_(0, 1e-3))
        self.v = nn.Parameter(torch.empty(n_heads, d_in // n_heads).normal_(0, 1e-3))
        self.log_g1 = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_heads, 1)))
        self.log_g2 = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_heads, 1)))
        self.noise: dict[str, Tensor] = {}                  # recorded u of a gate, instead of drawn ones

    def gate(self, name: str) -> Tensor:
        """Draw the gates of all heads in training, (n_heads, 1). In evaluation they are fixed."""
        log_g: Tensor = getattr(self, name)
        if not self.training:
            return (log_g.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
        u = self.noise.get(name, torch.rand_like(log_g))
        s = (((1 - 2 * EPS) * u + EPS).logit() + log_g) / TEMPERATURE
        return (s.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)

    def before(self, z: Tensor) -> Tensor:
        scale = 1 + self.A * self.gate("log_g2")            # (n_heads, head_dim)
        offset = self.v * self.gate("log_g1")
        return z * scale.flatten() + offset.flatten()       # (..., d_in)

    def open(self) -> dict[str, Tensor]:
        """Return the probability that each gate is above zero."""
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        return {name: (getattr(self, name) - shift).sigmoid().clamp(EPS, 1 - EPS) for name in ("log_g1", "log_g2")}


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("attn.o",)) -> nn.Module:
    """Freeze the model and edit the heads in front of every targeted output projection."""
    kit.freeze(model)
    numbers = {(block.stack, block.layer): block.dims["n_heads"] for block in kit.blocks(model, "attention")}
    for site in kit.sites(model, targets):
        assert site.layer is not None
        kit.attach(site, "jola", Edit(site.d_in, numbers[site.stack, site.layer]))
    return model


def penalty(model: nn.Module, *, step: int = 0) -> Tensor:
    """The term that the loss of this step has in addition, with the authors' exponential schedule."""
    weight = 0.1 * math.exp(-0.01 * step)
    edits = [child for _, child in kit.at_sites(model, "jola", Edit)]
    heads = sum(len(child.log_g1) for child in edits)
    terms = []
    for child in edits:
        chances = child.open()
        terms.append(weight * chances["log_g1"].mean() + (1 - weight) * chances["log_g2"].mean())
    return torch.stack(terms).sum() / heads


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the output projection with recorded noise, and compute the penalty; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "jola", Edit)
    child.noise = {"log_g1": inputs["u1"], "log_g2": inputs["u2"]}
    return {"output": site.module(inputs["x"]), "penalty": penalty(model), "later": penalty(model, step=3)}
