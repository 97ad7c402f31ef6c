"""Kernel-mix: a low-rank correction for every head, and one for all (chen2022kernel).

    Q_h += B_h A_h x + (B_qs A_qs x)_h + b_h          from the layer's input, A_h (q_rank, d_in)
    V_h += B_h A_h K_h + (B_vs A_vs x)_h + b_h        from the head's own keys, A_h (v_rank, head_dim)
    O   += B_o [A_h a_h]_h + B_vs A_vs a + b          from each head's output a_h, A_h (v_rank, head_dim)

Trained: the factors, and b where the projection has a bias. At inference nothing is left: all is linear in what
the projections read, the keys included. Without `mix` there are no shared factors: the lite form, of which targets
without `attn.o` give the smaller variant. Keys are taken before any rotation. The official code has a b beside
every projection (its models all have biases).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


def small(*shape: int) -> nn.Parameter:
    """Normal with deviation 0.01; what lies beyond two deviations is folded back, as in the authors' code."""
    return nn.Parameter(0.01 * torch.fmod(torch.randn(shape), 2))


class Kernel(kit.Child):
    """What the corrections of queries, values and outputs have in common: shared factors, and a bias."""

    suffix: str                 # of the names of the shared factors

    def __init__(self, site: kit.Site, *, share: int, dropout: float):
        super().__init__()
        if share:
            self.register_parameter(f"A_{self.suffix}", small(share, site.d_in))
            self.register_parameter(f"B_{self.suffix}", small(site.d_out, share))
        self.b = None if site.bias is None else small(site.d_out)
        self.share = share
        self.dropout = nn.Dropout(dropout)

    @property
    def shared(self) -> tuple[Tensor, Tensor]:
        return self.get_parameter(f"A_{self.suffix}"), self.get_parameter(f"B_{self.suffix}")

    def heads(self, x: Tensor) -> Tensor:
        """The sum or row of what the heads' own corrections say, (..., d_out)."""
        raise NotImplementedError

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        y = y + self.heads(x)
        if self.share:
            a, b = self.shared
            y = y + linear(linear(self.dropout(x), a), b)           # (..., d_in) -> (..., share) -> (..., d_out)
        return y if self.b is None else y + self.b

    def delta(self, site: kit.Site) -> tuple[Tensor, Tensor]:
        """The change of the weight, (d_out, d_in), and of the bias, (d_out,): `after` of nothing and of each unit."""
        zero = site.weight.new_zeros(1, site.d_out)
        bias = self.after(site.weight.new_zeros(1, site.d_in), zero)
        units = torch.eye(site.d_in).to(zero)
        return (self.after(units, zero) - bias).T, bias[0]


class Query(Kernel):
    """Each head's queries, from the layer's input."""

    suffix = "qs"

    def __init__(self, site: kit.Site, *, heads: int, rank: int, share: int, dropout: float):
        super().__init__(site, share=share, dropout=dropout)
        self.A_q = small(heads, rank, site.d_in)
        self.B_q = small(heads, site.d_out // heads, rank)

    def heads(self, x: Tensor) -> Tensor:
        low = torch.einsum("...d,hrd->...hr", self.dropout(x), self.A_q)
        return torch.einsum("...hr,hpr->...hp", low, self.B_q).flatten(-2)          # (..., d_out)


class Value(Kernel):
    """Each head's values, from the head's keys."""

    suffix = "vs"

    def __init__(self, site: kit.Site, key: kit.Site, *, heads: int, rank: int, share: int, dropout: float):
        super().__init__(site, share=share, dropout=dropout)
        self.A_v = small(heads, rank, site.d_out // heads)
        self.B_v = small(heads, site.d_out // heads, rank)
        self.key = key

    def heads(self, x: Tensor) -> Tensor:
        keys = linear(x, self.key.weight, self.key.bias).unflatten(-1, (len(self.A_v), -1))    # (..., heads, head_dim)
        low = torch.einsum("...hp,hrp->...hr", self.dropout(keys), self.A_v)
        return torch.einsum("...hr,hpr->...hp", low, self.B_v).flatten(-2)          # (..., d_out)


class Output(Kernel):
    """The output projection's part for each head, from the head's result."""

    suffix = "vs"

    def __init__(self, site: kit.Site, *, heads: int, rank: int, share: int, dropout: float):
        super().__init__(site, share=share, dropout=dropout)
        self.A_o = small(heads, rank, site.d_in // heads)
        self.B_o = small(site.d_out, heads * rank)

    def heads(self, x: Tensor) -> Tensor:
        results = self.dropout(x).unflatten(-1, (len(self.A_o), -1))                # (..., heads, head_dim)
        low = torch.einsum("...hp,hrp->...hr", results, self.A_o).flatten(-2)       # (..., heads * rank)
        return linear(low, self.B_o)                                                # (..., d_out)


def apply(
    model: nn.Module, *, q_rank: int = 3, v_rank: int = 8, mix: bool = True, q_share: int = 12, v_share: int = 8,
    dropout: float = 0.1,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "attn.o", "xattn.q", "xattn.v", "xattn.o"),
) -> nn.Module:
    """Freeze the model and put the corrections beside the targeted projections of every attention."""
    kit.freeze(model)
    q_share, v_share = (q_share, v_share) if mix else (0, 0)
    blocks = {(b.stack, b.layer, b.name): b for b in kit.blocks(model, "attention")}
    for site in kit.sites(model, targets):
        name, _, part = site.role.partition(".")
        block = blocks[site.stack, site.layer or 0, name]
        heads, groups = block.dims["n_heads"], block.dims["n_kv_heads"]
        child: Kernel
        if part == "q":
            child = Query(site, heads=heads, rank=q_rank, share=q_share, dropout=dropout)
        elif part == "v":
            key = block.sites[f"{name}.k"]
            child = Value(site, key, heads=groups, rank=v_rank, share=v_share, dropout=dropout)
        else:
            child = Output(site, heads=heads, rank=v_rank, share=v_share, dropout=dropout)
        kit.attach(site, "kernel_mix", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights and biases, once all are known: those of the values read the keys."""
    changes = [(site, *child.eval().delta(site)) for site, child in kit.at_sites(model, "kernel_mix", Kernel)]
    for site, weight, bias in changes:
        site.weight.add_(weight)
        if site.bias is not None:
            site.bias.add_(bias)
    kit.detach(model, "kernel_mix")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the adapted projections of one attention on the recorded input; for the golden vectors."""
    names = {Query: "query", Value: "value", Output: "output"}
    return {names[type(child)]: site.module(inputs["x"]) for site, child in kit.at_sites(model, "kernel_mix", Kernel)}
