"""ARC: adapter re-composing (dong2023arc; code_arc#Model/ARC_ViT.py:ARC_adapter).

    n <- n + P dropout(diag(c) P^T n) + b

with n the output of a norm before an attention or a feed-forward block. All layers share P; the two positions in a
layer have different ones.

Trained: P_attn and P_mlp (d_model, bottleneck) for the model, and for each layer c (bottleneck) and b (d_model) at both
norms. c_attn starts at zero, c_mlp does not. Without dropout the change is a symmetric matrix, which folds into the
projections that read the norm.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._image import READERS, fold_into_readers, norms, require_biases, require_one_width


class Projections(kit.Child):
    """The projections that all layers share, by the block behind them."""

    def __init__(self, d: int, *, bottleneck: int, blocks: tuple[str, ...]):
        super().__init__()
        for block in blocks:
            self.register_parameter(f"P_{block}", nn.Parameter(nn.init.xavier_uniform_(torch.empty(d, bottleneck))))


class ARC(kit.Child):
    """The factors and shifts of one layer."""

    shared: Projections     # not a submodule

    def __init__(self, d: int, shared: Projections, *, bottleneck: int, blocks: tuple[str, ...], dropout: float):
        super().__init__()
        kit.share(self, shared=shared)
        bound = math.sqrt(6 / (1 + bottleneck))
        for block in blocks:
            c = torch.zeros(bottleneck) if block == "attn" else torch.empty(bottleneck).uniform_(-bound, bound)
            self.register_parameter(f"c_{block}", nn.Parameter(c))
            self.register_parameter(f"b_{block}", nn.Parameter(torch.zeros(d)))
        self.dropout = nn.Dropout(dropout)

    def _act(self, block: str, n: Tensor) -> Tensor:
        p, c, b = self.shared.get_parameter(f"P_{block}"), *(self.get_parameter(f"{name}_{block}") for name in "cb")
        z = self.dropout(n @ (p * c))       # (..., d) -> (..., bottleneck)
        changed: Tensor = z @ p.T + b + n   # (..., d)
        return changed

    def before_attn(self, _: nn.Module, args: tuple[Tensor, ...], n: Tensor) -> Tensor:
        return self._act("attn", n)

    def before_mlp(self, _: nn.Module, args: tuple[Tensor, ...], n: Tensor) -> Tensor:
        return self._act("mlp", n)


def apply(
    model: nn.Module, *, bottleneck: int = 50, feed_forward: bool = True, dropout: float = 0.1
) -> nn.Module:
    """Freeze the model and put an adapter behind the norms of every layer.

    Raises UsageError for a model of text, for layers of different widths, and where a projection has no bias to fold
    into.
    """
    require_one_width(model)
    kit.freeze(model)
    blocks = ("attn", "mlp") if feed_forward else ("attn",)
    shared = Projections(kit.inventory(model).dims["d_model"], bottleneck=bottleneck, blocks=blocks)
    kit.attach(model, "arc", shared)
    before = norms(model)
    for layer in kit.blocks(model, "layer"):
        for block in blocks:
            require_biases(layer, READERS[block])
        child = ARC(layer.dims["d_model"], shared, bottleneck=bottleneck, blocks=blocks, dropout=dropout)
        hooks = kit.attach(layer.module, "arc", child)
        for block in blocks:
            norm = before[layer.stack, layer.layer, block]
            hooks.append(norm.register_forward_hook(getattr(child, f"before_{block}")))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold the adapters into the projections that read them."""
    for layer in kit.blocks(model, "layer"):
        child = layer.module.get_submodule("arc")
        assert isinstance(child, ARC)
        for block in READERS:
            if hasattr(child, f"c_{block}"):
                p = child.shared.get_parameter(f"P_{block}")
                change = p * child.get_parameter(f"c_{block}") @ p.T        # (d, d)
                fold_into_readers(layer, READERS[block], change, child.get_parameter(f"b_{block}"))
    kit.detach(model, "arc")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states
