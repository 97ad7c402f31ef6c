"""MixLoRA: a sparse mixture of LoRA experts in the feed-forward block (li2024mixlora#abstract).

    h = sum over the k best i of omega_i(x) F_i(x),    omega(x) = softmax over these of G x

F_i is the feed-forward block with W_0 + (alpha / r) B_i A_i in place of each of its weights W_0. Attention has one LoRA
beside each targeted weight.

Trained: A (r, d_in) and B (d_out, r) beside the weights of attention, A_e (experts, r, d_in) and B_e (experts, d_out,
r) beside those of the feed-forward block, and a router G (experts, d_model) for each block. All of it remains at
inference, because the choice depends on the token. B and B_e start at zero, so the model starts as it was.

The first weights of the block are applied once to every token. Behind them are k copies of the sequence, one for each
chosen expert, up to the weighted sum behind the last weight. A training loop may add a multiple of each router's
`imbalance` to its loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from .lora import LoRA


class Router(kit.Child):
    """The router of one feed-forward block. It keeps its choice from the block's first module to its last."""

    def __init__(self, d: int, *, experts: int, top_k: int):
        super().__init__()
        if top_k > experts:
            raise ValueError(f"a token cannot use {top_k} of {experts} experts")
        self.G = nn.Parameter(0.02 * torch.randn(experts, d))
        self.top_k = top_k
        self.weights: Tensor | None = None                          # (..., top_k, n, 1)
        self.chosen: Tensor | None = None                           # (..., top_k, n, experts, 1), of zeros and ones

    def choose(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Choose the experts of every token; a hook before each first module, of which the first one chooses."""
        if self.chosen is None:
            x = args[0]
            best, which = torch.softmax(x @ self.G.T, dim=-1).topk(self.top_k)              # (..., n, top_k)
            self.weights = (best / best.sum(-1, keepdim=True)).mT.unsqueeze(-1)
            chosen = x.new_zeros(*which.mT.shape, len(self.G))                              # (..., top_k, n, experts)
            self.chosen = chosen.scatter_(-1, which.mT.unsqueeze(-1), 1).unsqueeze(-1)

    def mixed(self, y: Tensor) -> Tensor:
        """Return the weighted sum of the copies (..., top_k * n, d), and forget the choice."""
        assert self.weights is not None
        weights, self.weights, self.chosen = self.weights, None, None   # first: a checkpoint may stop at the product
        total: Tensor = (y.unflatten(-2, (self.top_k, -1)) * weights).sum(-3)
        return total                                                # (..., n, d)

    def imbalance(self, x: Tensor) -> Tensor:
        """Return how unevenly the tokens x (..., n, d) use the experts; `top_k` if they are used alike."""
        omega = torch.softmax(x @ self.G.T, dim=-1).flatten(0, -2)                          # (tokens, experts)
        used = torch.zeros_like(omega).scatter(-1, omega.topk(self.top_k).indices, 1.0)
        uneven: Tensor = (used.mean(0) * omega.mean(0)).sum() * len(self.G)
        return uneven


class Experts(kit.Child):
    """The experts' corrections beside one weight of a feed-forward block."""

    router: Router                                                  # not a submodule

    def __init__(self, d_in: int, d_out: int, router: Router, *, r: int, alpha: float, experts: int, dropout: float):
        super().__init__()
        kit.share(self, router=router)
        self.A_e = nn.Parameter(torch.empty(experts, r, d_in).uniform_(-(d_in**-0.5), d_in**-0.5))
        self.B_e = nn.Parameter(torch.zeros(experts, d_out, r))
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)

    def lower(self, x: Tensor) -> Tensor:
        low = self.dropout(x) @ self.A_e.flatten(0, 1).T            # (..., n, experts * r)
        each: Tensor = low.unflatten(-1, self.A_e.shape[:2])
        return each                                                 # (..., n, experts, r)

    def upper(self, low: Tensor) -> Tensor:
        up = self.B_e.transpose(1, 2).flatten(0, 1)                 # (experts * r, d_out)
        change: Tensor = self.scale * (low.flatten(-2) @ up)
        return change

    def first(self, _: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """Return a copy of the output for each chosen expert, with its correction, (..., top_k * n, d_out)."""
        assert self.router.chosen is not None
        each = self.upper(self.lower(args[0]).unsqueeze(-4) * self.router.chosen)           # (..., top_k, n, d_out)
        return (y.unsqueeze(-3) + each).flatten(-3, -2).to(y.dtype)

    def last(self, _: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, (..., n, d_out)."""
        assert self.router.chosen is not None
        each = self.upper(self.lower(args[0]) * self.router.chosen.flatten(-4, -3))         # (..., top_k * n, d_out)
        return self.router.mixed(y + each).to(y.dtype)


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 32.0, experts: int = 8, top_k: int = 2, dropout: float = 0.05,
    targets: tuple[str, ...] = ("attn.*",),
) -> nn.Module:  # fmt: skip
    """Freeze the model, put experts into its feed-forward blocks and a LoRA beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "mixlora", LoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    for block in kit.blocks(model, "mlp"):
        router = Router(block.dims["d_model"], experts=experts, top_k=top_k)
        hooks = kit.attach(block.sites["mlp.up"], "mixlora", router)
        modules: dict[str, Any] = {site.path: site for site in block.sites.values()}       # a fused one once
        for path, site in modules.items():
            module = site.module
            d_out = len(module.weight.T if site.transposed else module.weight)
            child = Experts(site.d_in, d_out, router, r=r, alpha=alpha, experts=experts, dropout=dropout)
            handles = kit.attach(module, "mixlora.weight", child)
            if path == block.sites["mlp.down"].path:
                handles.append(module.register_forward_hook(child.last))
            else:
                hooks.append(module.register_forward_pre_hook(router.choose))
                handles.append(module.register_forward_hook(child.first))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens, and measure the balance of its first router; for the golden vectors."""
    router = next(child for child in kit.attached(model, "mixlora") if isinstance(child, Router))
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return {"output": logits, "balance": router.imbalance(inputs["x"])}
