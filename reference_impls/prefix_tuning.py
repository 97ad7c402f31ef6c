"""Prefix-tuning: optimizing continuous prompts for generation (li2021prefix#section-4).

    head = attend(Q, [P_k; K], [P_v; V]),    [P_k, P_v] = W_2 tanh(W_1 E + b_1) + b_2  while training

Every attention (self and cross, of every layer) gets `prefix_length` more keys P_k and values P_v. Trained: with
`use_mlp` an embedding E and an MLP that emits all prefixes, which is more stable; without it, P_k and P_v
themselves. At inference P_k and P_v remain: `finish` computes them one last time and removes the MLP.

The official code and peft pass the prefix as a cache, so the positions of the real tokens move by `prefix_length`.
Here they keep their positions. The official code has one embedding and MLP each for encoder, decoder and cross
attention. Here one serves all. peft gives T5 a prefix in the decoder's self-attention only, and an E as wide as the
keys where these are grouped.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._attention import widen


class Emitter(kit.Child):
    """The embedding and MLP that emit the prefixes of all attentions during training."""

    def __init__(self, d_model: int, d_kv: int, n_attention: int, *, prefix_length: int, mid_dim: int):
        super().__init__()
        self.width = 2 * d_kv
        self.E = nn.Parameter(torch.randn(prefix_length, d_model))
        self.W_1 = nn.Parameter(torch.empty(mid_dim, d_model))
        self.b_1 = nn.Parameter(torch.empty(mid_dim))
        self.W_2 = nn.Parameter(torch.empty(n_attention * self.width, mid_dim))
        self.b_2 = nn.Parameter(torch.empty(n_attention * self.width))
        for weight, bias in ((self.W_1, self.b_1), (self.W_2, self.b_2)):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def emit(self, index: int) -> tuple[Tensor, Tensor]:
        rows = slice(index * self.width, (index + 1) * self.width)
        hidden = torch.tanh(linear(self.E, self.W_1, self.b_1))     # (prefix_length, mid_dim)
        both = linear(hidden, self.W_2[rows], self.b_2[rows])       # (prefix_length, 2 d_kv)
        p_k, p_v = both.chunk(2, dim=-1)                            # (prefix_length, d_kv) each
        return p_k, p_v


class Prefix(kit.Child):
    """The prefix of one attention."""

    emitter: Emitter | None     # not a submodule

    def __init__(self, n_kv_heads: int, head_dim: int, *, prefix_length: int, emitter: Emitter | None, index: int):
        super().__init__()
        kit.share(self, emitter=emitter)
        self.n_kv_heads, self.index = n_kv_heads, index
        self.P_k = nn.Parameter(torch.randn(prefix_length, n_kv_heads * head_dim), requires_grad=emitter is None)
        self.P_v = nn.Parameter(torch.randn(prefix_length, n_kv_heads * head_dim), requires_grad=emitter is None)

    def keys_values(self) -> tuple[Tensor, Tensor]:
        p_k, p_v = (self.P_k, self.P_v) if self.emitter is None else self.emitter.emit(self.index)
        return self.split(p_k), self.split(p_v)

    def split(self, p: Tensor) -> Tensor:
        return p.view(len(p), self.n_kv_heads, -1).transpose(0, 1)  # (n_kv_heads, prefix_length, head_dim)


def prefixes(
    model: nn.Module, *, prefix_length: int, use_mlp: bool, mid_dim: int, name: str
) -> list[tuple[kit.Block, Prefix]]:
    """Attach a prefix to every attention, without a hook. With `use_mlp`, all prefixes share one emitter."""
    attentions = kit.blocks(model, "attention")
    emitter = None
    if use_mlp:
        dims = attentions[0].dims
        emitter = Emitter(
            dims["d_model"], dims["d_kv"], len(attentions), prefix_length=prefix_length, mid_dim=mid_dim
        )
        kit.attach(model, name, emitter)
    attached = []
    for index, block in enumerate(attentions):
        heads, width = block.dims["n_kv_heads"], block.dims["head_dim"]
        prefix = Prefix(heads, width, prefix_length=prefix_length, emitter=emitter, index=index)
        kit.attach(block.module, name, prefix)
        attached.append((block, prefix))
    return attached


def apply(
    model: nn.Module, *, prefix_length: int = 10, use_mlp: bool = True, mid_dim: int = 512, name: str = "prefix_tuning"
) -> nn.Module:
    """Freeze the model and give every attention a prefix."""
    kit.freeze(model)
    attached = prefixes(model, prefix_length=prefix_length, use_mlp=use_mlp, mid_dim=mid_dim, name=name)
    for block, prefix in attached:
        prefix.handles.append(widen(model, block.module, prefix.keys_values))
    return model


@torch.no_grad()
def finish(model: nn.Module, name: str = "prefix_tuning") -> nn.Module:
    """Compute the prefixes one last time and remove the emitter."""
    children = kit.attached(model, name)
    for child in children:
        if isinstance(child, Prefix) and child.emitter is not None:
            p_k, p_v = child.emitter.emit(child.index)
            child.P_k.copy_(p_k)
            child.P_v.copy_(p_v)
            child.emitter = None
    for child in children:
        if isinstance(child, Emitter):
            kit.drop(child)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    prefixes = [child for child in kit.attached(model, "prefix_tuning") if isinstance(child, Prefix)]
    last = kit.blocks(model, "attention")[-1].module
    output, _ = last(inputs["x"], attention_mask=inputs["mask"])
    return {"output": output, "emitted": torch.stack([torch.stack(prefix.keys_values()) for prefix in prefixes])}
