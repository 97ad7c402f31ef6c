"""MoV: a soft mixture of (IA)^3 vectors (zadouri2023mov; code_mov#src/mov.py:MoV).

    y <- y * (sum over i of omega_i(y) l_i),    omega(y) = softmax(G y)

y is one head's keys or values, or the input of the last feed-forward projection. Trained: `experts` vectors for each
head of the keys and of the values, L (n_kv_heads, experts, head_dim), whose heads share a router G (experts, head_dim);
and for each feed-forward block l_ff (experts, d_in) with a router G_ff (experts, d_in). All vectors are ones at first.
The weights depend on the input, so nothing can be merged.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class MixedHeads(kit.Child):
    """The keys or values of each head, times a mixture of vectors that the head's own numbers choose."""

    def __init__(self, d_out: int, *, heads: int, experts: int):
        super().__init__()
        self.L = nn.Parameter(torch.ones(heads, experts, d_out // heads))
        self.G = nn.Parameter(0.02 * torch.randn(experts, d_out // heads))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        heads: Tensor = y.unflatten(-1, (len(self.L), -1)).clone()      # (..., heads, head_dim); fused slices need it
        omega = torch.softmax(heads @ self.G.T, dim=-1)                         # (..., heads, experts)
        vectors = torch.einsum("...he,hed->...hd", omega, self.L)
        scaled: Tensor = (heads * vectors).flatten(-2)
        return scaled


class MixedInput(kit.Child):
    """What a feed-forward projection reads, times a mixture of vectors that it chooses."""

    def __init__(self, d_in: int, *, experts: int):
        super().__init__()
        self.l_ff = nn.Parameter(torch.ones(experts, d_in))
        self.G_ff = nn.Parameter(0.02 * torch.randn(experts, d_in))

    def before(self, x: Tensor) -> Tensor:
        omega = torch.softmax(x @ self.G_ff.T, dim=-1)                          # (..., experts)
        return x * (omega @ self.l_ff)


def apply(
    model: nn.Module, *, experts: int = 30,
    targets: tuple[str, ...] = ("attn.k", "attn.v", "xattn.k", "xattn.v", "mlp.down"),
) -> nn.Module:
    """Freeze the model and rescale what the targeted weights write (attention) or read (feed-forward)."""
    kit.freeze(model)
    dims = {(block.stack, block.layer): block.dims for block in kit.blocks(model, "attention")}
    for site in kit.sites(model, targets):
        if site.role.startswith("mlp."):
            kit.attach(site, "mov", MixedInput(site.d_in, experts=experts))
        else:
            assert site.layer is not None
            heads = dims[site.stack, site.layer]["n_kv_heads"]
            kit.attach(site, "mov", MixedHeads(site.d_out, heads=heads, experts=experts))
    return model
