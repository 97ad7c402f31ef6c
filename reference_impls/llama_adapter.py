"""LLaMA-Adapter: efficient fine-tuning of language models with zero-init attention (zhang2023llamaadapter).

    head = softmax(Q K^T / s) V + tanh(gate) softmax(Q (P W_K)^T / s) P W_V

In the uppermost `layers` layers (of each stack) the heads also attend to a learned prompt P, whose keys and values the
frozen maps of that layer make. The prompt has a softmax of its own, and a gate for every head weighs it. Trained: P
(prompt_length, d_model) and gate (n_heads) of each of these layers. At inference all of it remains, and inputs stay
as long as they were. Gates start at zero, so the model starts exactly where it was.

P has no positions: it is not rotated, as in the official code. That code gives all layers a gate and trains those of
the adapted ones. peft (`adaption_prompt`) has one gate for a layer and no tanh.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._attention import beside


class GatedPrompt(kit.Child):
    """The prompt of one self-attention."""

    def __init__(self, block: kit.Block, *, prompt_length: int):
        super().__init__()
        self.keys, self.values = block.sites["attn.k"], block.sites["attn.v"]       # the layer's frozen maps
        self.n_heads, self.n_kv_heads = block.dims["n_heads"], block.dims["n_kv_heads"]
        self.P = nn.Parameter(torch.randn(prompt_length, block.dims["d_model"]))
        self.gate = nn.Parameter(torch.zeros(self.n_heads))

    def heads(self, site: kit.Site) -> Tensor:
        made = linear(self.P, site.weight, site.bias)               # (prompt_length, d_kv)
        split = made.view(len(made), self.n_kv_heads, -1).transpose(0, 1)       # (n_kv_heads, prompt_length, head_dim)
        return split.repeat_interleave(self.n_heads // self.n_kv_heads, dim=0)  # (n_heads, prompt_length, head_dim)

    def term(self, q: Tensor, scaling: float) -> Tensor:
        scores = scaling * q @ self.heads(self.keys).mT             # (batch, n_heads, n, prompt_length)
        read = scores.softmax(dim=-1) @ self.heads(self.values)     # (batch, n_heads, n, head_dim)
        return torch.tanh(self.gate)[:, None, None] * read


def apply(
    model: nn.Module, *, prompt_length: int = 10, layers: int = 30, name: str = "llama_adapter"
) -> nn.Module:
    """Freeze the model and give the self-attentions of its uppermost layers a gated prompt."""
    kit.freeze(model)
    for block in kit.blocks(model, "attention"):
        if block.name == "attn" and block.layer >= block.dims["n_layers"] - layers:
            prompt = GatedPrompt(block, prompt_length=prompt_length)
            hooks = kit.attach(block.module, name, prompt)
            hooks.append(beside(model, block.module, prompt.term))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    attention = kit.blocks(model, "attention")[-1].module
    positions = inputs["cos"], inputs["sin"]
    output: Tensor = attention(inputs["x"], position_embeddings=positions, attention_mask=inputs["mask"])[0]
    return output
