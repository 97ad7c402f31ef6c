"""RepAdapter: visual adaption via structural re-parameterization (luo2023repadapter; code_repadapter#repadapter.py).

    n <- n + s (B dropout(A n + a) + b)

with n the output of a norm before an attention or a feed-forward block. B has two diagonal blocks: the first half of
the narrow space feeds the first half of the features, the second half the second.

Trained: for both norms of every layer A (bottleneck, d_model) and B (d_model, bottleneck / 2) with their biases a and
b. B starts at zero. Nothing between A and the block's own projections is nonlinear, so all of it folds into these
projections.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._image import READERS, fold_into_readers, norms, require_biases, require_images


class RepAdapter(kit.Child):
    """The adapters of one layer: one in front of the attention, one in front of the feed-forward block."""

    def __init__(self, d: int, *, bottleneck: int, scale: float, dropout: float):
        super().__init__()
        for block in ("attn", "mlp"):
            down = torch.empty(bottleneck, d)
            nn.init.xavier_uniform_(down)
            self.register_parameter(f"A_{block}", nn.Parameter(down))
            self.register_parameter(f"a_{block}", nn.Parameter(torch.zeros(bottleneck)))
            self.register_parameter(f"B_{block}", nn.Parameter(torch.zeros(d, bottleneck // 2)))
            self.register_parameter(f"b_{block}", nn.Parameter(torch.zeros(d)))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def _act(self, block: str, n: Tensor) -> Tensor:
        down, a, up, b = (self.get_parameter(f"{name}_{block}") for name in "AaBb")
        z = self.dropout(linear(n, down, a))                        # (..., d) -> (..., bottleneck)
        halves = [linear(*pair) for pair in zip(z.chunk(2, dim=-1), up.chunk(2), strict=True)]
        return n + self.scale * (torch.cat(halves, dim=-1) + b)     # (..., d)

    def before_attn(self, _: nn.Module, args: tuple[Tensor, ...], n: Tensor) -> Tensor:
        return self._act("attn", n)

    def before_mlp(self, _: nn.Module, args: tuple[Tensor, ...], n: Tensor) -> Tensor:
        return self._act("mlp", n)

    def folded(self, block: str) -> tuple[Tensor, Tensor]:
        """Return the matrix and the shift that one adapter is, apart from its input."""
        down, a, up, b = (self.get_parameter(f"{name}_{block}") for name in "AaBb")
        wide = torch.block_diag(*up.chunk(2))                       # (d, bottleneck)
        return self.scale * wide @ down, self.scale * (wide @ a + b)


def apply(
    model: nn.Module, *, bottleneck: int = 8, scale: float = 0.1, dropout: float = 0.1, name: str = "repadapter"
) -> nn.Module:
    """Freeze the model and put an adapter behind both norms of every layer.

    Raises UsageError for a model of text, and where a projection has no bias to fold into.
    """
    require_images(model)
    kit.freeze(model)
    before = norms(model)
    for layer in kit.blocks(model, "layer"):
        for roles in READERS.values():
            require_biases(layer, roles)
        child = RepAdapter(layer.dims["d_model"], bottleneck=bottleneck, scale=scale, dropout=dropout)
        hooks = kit.attach(layer.module, name, child)
        hooks.append(before[layer.stack, layer.layer, "attn"].register_forward_hook(child.before_attn))
        hooks.append(before[layer.stack, layer.layer, "mlp"].register_forward_hook(child.before_mlp))
    return model


@torch.no_grad()
def merge(model: nn.Module, name: str = "repadapter") -> nn.Module:
    """Fold the adapters into the projections that read them."""
    for layer in kit.blocks(model, "layer"):
        child = layer.module.get_submodule(name)
        assert isinstance(child, RepAdapter)
        for block, roles in READERS.items():
            change, shift = child.folded(block)
            fold_into_readers(layer, roles, change, shift)
    kit.detach(model, name)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = kit.blocks(model, "layer")[0].module(inputs["x"])
    return output
