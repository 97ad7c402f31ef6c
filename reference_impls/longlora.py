"""LongLoRA: efficient fine-tuning of long-context large language models (chen2023longlora#abstract).

    h = W_0 x + (alpha / r) B A x

beside the projections of attention, while the token embedding E and every norm n are trained as well.

Trained: A (r, d_in), Kaiming-uniform at first, and B (d_out, r), zeros at first, beside every targeted weight, E
(vocabulary, d_model), and the gains of all norms, with their biases if they have some. At inference nothing is left:
the product is added to W_0, and E and n are the model's own. The model starts where it was.

In training the authors replace attention by `attend`: tokens attend within four groups, which are shifted by half a
group in the second half of the heads. The adapted model keeps its own attention, as with their flag use_full_attn.
"""

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from . import _kit as kit
from .lora import LoRA

GROUPS = 4


def attend(q: Tensor, k: Tensor, v: Tensor, groups: int = GROUPS) -> Tensor:
    """Return causal shifted sparse attention of queries, keys and values (batch, n_heads, n, head_dim)."""
    n_heads, n = q.shape[1:3]
    size, left = divmod(n, groups)
    if left or not size:
        raise ValueError(f"{n} tokens cannot be cut into {groups} equal groups")
    places = torch.arange(n, device=q.device)
    shift = size // 2 * (torch.arange(n_heads, device=q.device) >= n_heads // 2)        # (n_heads,)
    group = (places + shift[:, None]) // size                       # (n_heads, n)
    seen = (group[:, :, None] == group[:, None]) & (places[:, None] >= places)          # (n_heads, n, n)
    scores = q @ k.mT * q.shape[-1] ** -0.5                         # (batch, n_heads, n, n)
    heads: Tensor = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1) @ v
    return heads                                                    # (batch, n_heads, n, head_dim)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: tuple[str, ...] = ("attn.*",),
) -> nn.Module:
    """Freeze the model but for its token embedding and norms, and put corrections beside the targeted weights."""
    kit.freeze(model)
    for weight in kit.weights(model):
        weight.value.requires_grad_(weight.kind == "norm" or weight.role == "embed.token")
    for site in kit.sites(model, targets):
        kit.attach(site, "longlora", LoRA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights. The embedding and the norms are the model's own."""
    return kit.fold(model, "longlora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the embedding, the first norm and shifted attention on recorded tokens; for the golden vectors."""
    [block] = kit.blocks(model, "attention")
    layer = model.get_submodule("model.layers.0")
    h = layer.get_submodule("input_layernorm")(model.get_submodule("model.embed_tokens")(inputs["x"]))
    split = (*h.shape[:2], block.dims["n_heads"], block.dims["head_dim"])
    q, k, v = (block.sites[f"attn.{one}"].module(h).view(split).transpose(1, 2) for one in "qkv")
    q, k = apply_rotary_pos_emb(q, k, inputs["cos"], inputs["sin"])
    heads = attend(q, k, v)                                         # (batch, n_heads, n, head_dim)
    return {"output": block.sites["attn.o"].module(heads.transpose(1, 2).flatten(2)), "heads": heads}
