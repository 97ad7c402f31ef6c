"""Cartridges: long contexts as a trained key-value cache (eyuboglu2025cartridges;
code_cartridges#cartridges/cache.py:TrainableCache).

    head = attend(Q, [S_k; P_k; K], [S_v; P_v; V])

Every self-attention reads `prefix_length` keys and values that stand for a long text. They begin as those that the
model itself computes for the start of the text (`prefill`), and are trained to make the model answer as if it had
read all of it. Trained: P_k and P_v (prefix_length - n_frozen, d_kv); the first `n_frozen` positions S_k and S_v,
on which attention rests whatever the text says, stay as they are. At inference all of it remains.

Until `prefill` they are noise, the same in every model. Real tokens keep their positions here. To the authors' code
and to peft the cartridge is a cache, and they stand behind it: `position_ids` moved by prefix_length are the same
function. The training data, questions about the text that the model asks itself, and the distillation loss are the
caller's.
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._attention import widen


class Cartridge(kit.Child):
    """The cache of one attention."""

    def __init__(self, n_kv_heads: int, head_dim: int, noise: torch.Generator, *, prefix_length: int, n_frozen: int):
        super().__init__()
        self.n_kv_heads, self.n_frozen = n_kv_heads, n_frozen
        for which in "kv":
            made = torch.randn(prefix_length, n_kv_heads * head_dim, generator=noise)
            if n_frozen:
                self.register_parameter(f"S_{which}", nn.Parameter(made[:n_frozen].clone(), requires_grad=False))
            self.register_parameter(f"P_{which}", nn.Parameter(made[n_frozen:].clone()))

    def parts(self, which: str) -> list[Tensor]:
        """The frozen positions, if there are any, and the others."""
        return [self.get_parameter(f"{kind}_{which}") for kind in ("SP" if self.n_frozen else "P")]

    def keys_values(self) -> tuple[Tensor, Tensor]:
        k, v = (torch.cat(self.parts(which)) for which in "kv")     # (prefix_length, d_kv)
        return self.heads(k), self.heads(v)

    def heads(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), self.n_kv_heads, -1).transpose(0, 1)    # (n_kv_heads, prefix_length, head_dim)


def apply(model: nn.Module, *, prefix_length: int = 2048, n_frozen: int = 1) -> nn.Module:
    """Freeze the model and give every self-attention a cache of its own."""
    kit.freeze(model)
    noise = torch.Generator().manual_seed(0)
    for block in kit.blocks(model, "attention"):
        if block.name == "attn":
            heads, width = block.dims["n_kv_heads"], block.dims["head_dim"]
            child = Cartridge(heads, width, noise, prefix_length=prefix_length, n_frozen=n_frozen)
            kit.attach(block.module, "cartridges", child).append(widen(model, block.module, child.keys_values))
    return model


@torch.no_grad()
def prefill(model: nn.Module, cache: Any) -> nn.Module:
    """Begin with the first positions of a text, from the `past_key_values` that the plain decoder returned for it."""
    for child, layer in zip(kit.attached(model, "cartridges"), cache.layers, strict=True):
        if isinstance(child, Cartridge):
            for which, made in {"k": layer.keys, "v": layer.values}.items():
                rows = made[0].transpose(0, 1).flatten(1)           # (n_kv_heads, n, head_dim) -> (n, d_kv)
                for part in child.parts(which):
                    part.copy_(rows[: len(part)])
                    rows = rows[len(part) :]
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    attention = kit.blocks(model, "attention")[0].module
    positions = inputs["cos"], inputs["sin"]
    output = attention(inputs["x"], position_embeddings=positions, attention_mask=inputs["mask"])[0]
    filled = copy.deepcopy(model)
    prefill(filled, filled(inputs["text"], use_cache=True).past_key_values)
    [child] = cast(list[Cartridge], kit.attached(filled, "cartridges"))
    return {"output": output, "prefilled": torch.stack([torch.cat(child.parts(which)) for which in "kv"])}
