"""LST: ladder side-tuning (sung2022lst#section-3).

    s <- S_l(m_l s + (1 - m_l) D_l h_l),    m_l = sigmoid(alpha_l / T);    out = m U s + (1 - m) h

A transformer that is `r` times narrower runs beside the frozen one. Before each of its layers S_l it takes in the
state h_l of the backbone's layer, narrowed by D_l; at the end its state is widened by U and mixed with the
backbone's last. Nothing that is trained lies below anything of the backbone but its head, so no gradient passes
through the backbone and none of its activations is kept. Trained, and kept at inference: the whole side network. It
has no layer beside every `drop_every`-th one of the backbone, the first included (0: a layer beside each).

The side layers here are those of T5 for every family: gains without biases, attention, ReLU; and without position
biases, since the states they take in know their positions. The authors begin with a pruned copy of the backbone,
which matters for quality, here with random weights. A cache is refused: the side network would need its own.
"""

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from . import _kit as kit

TEMPERATURE = 0.1


def weight(*shape: int) -> nn.Parameter:
    value = torch.empty(shape)
    nn.init.kaiming_uniform_(value, a=math.sqrt(5))
    return nn.Parameter(value)


def gate(alpha: Tensor, side: Tensor, other: Tensor) -> Tensor:
    m = torch.sigmoid(alpha / TEMPERATURE)
    return m * side + (1 - m) * other


class SideAttention(nn.Module):
    """One attention of the side network: of d_s numbers per position, and heads r times narrower."""

    def __init__(self, d_s: int, n_heads: int, head_dim: int):
        super().__init__()
        self.n_heads = n_heads
        self.g_attn = nn.Parameter(torch.ones(d_s))
        self.W_q, self.W_k, self.W_v = (weight(n_heads * head_dim, d_s) for _ in range(3))
        self.W_o = weight(d_s, n_heads * head_dim)

    def add(self, s: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        x = rms_norm(s, self.g_attn.shape, self.g_attn)
        y = x if source is None else source
        q, k, v = (self.split(linear(a, w)) for a, w in ((x, self.W_q), (y, self.W_k), (y, self.W_v)))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)           # (batch, n_heads, n, head_dim)
        return s + linear(mixed.transpose(1, 2).flatten(2), self.W_o)           # (batch, n, d_s)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)           # (batch, n_heads, n, head_dim)


class SideMLP(nn.Module):
    """One feed-forward block of the side network."""

    def __init__(self, d_s: int, d_hidden: int):
        super().__init__()
        self.g_mlp = nn.Parameter(torch.ones(d_s))
        self.W_in, self.W_out = weight(d_hidden, d_s), weight(d_s, d_hidden)

    def add(self, s: Tensor) -> Tensor:
        z = torch.relu(linear(rms_norm(s, self.g_mlp.shape, self.g_mlp), self.W_in))    # (batch, n, d_hidden)
        return s + linear(z, self.W_out)                                        # (batch, n, d_s)


class Rung(nn.Module):
    """How a layer's state enters the side network, and the side layer that follows."""

    attentions: list[SideAttention]     # plain attributes: each is a submodule beside what it is a copy of
    mlp: SideMLP

    def __init__(self, d_model: int, d_s: int, attentions: list[SideAttention], mlp: SideMLP):
        super().__init__()
        vars(self).update(attentions=attentions, mlp=mlp)
        self.D, self.b_D = weight(d_s, d_model), nn.Parameter(torch.zeros(d_s))
        self.alpha = nn.Parameter(torch.zeros(1))

    def climb(self, s: Tensor, h: Tensor, masks: list[Tensor], source: Tensor | None) -> Tensor:
        s = gate(self.alpha, s, linear(h, self.D, self.b_D))                    # (batch, n, d_s)
        for attention, mask, other in zip(self.attentions, masks, (None, source), strict=False):
            s = attention.add(s, other, mask)
        return self.mlp.add(s)


class Ladder(nn.Module):
    """The ends of the side network, and its state while the backbone runs: one for each stack."""

    def __init__(self, d_model: int, d_s: int, n_stacks: int):
        super().__init__()
        self.D_first = nn.ParameterList(weight(d_s, d_model) for _ in range(n_stacks))
        self.b_first = nn.ParameterList(torch.zeros(d_s) for _ in range(n_stacks))
        self.g_last = nn.ParameterList(torch.ones(d_s) for _ in range(n_stacks))
        self.U, self.b_U = weight(d_model, d_s), nn.Parameter(torch.zeros(d_model))
        self.alpha_last = nn.Parameter(torch.zeros(1))
        self.s: list[Tensor | None] = [None] * n_stacks
        self.padding: list[Tensor | None] = [None] * n_stacks

    def enter(self, i: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() > 0:
            raise NotImplementedError("ladder side-tuning keeps no cache: generate with use_cache=False")
        self.padding[i] = kwargs.get("attention_mask")

    def begin(self, i: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        self.s[i] = linear(x.detach(), self.D_first[i], self.b_first[i])        # (batch, n, d_model) -> (batch, n, d_s)

    def climb(self, i: int, causal: bool, rung: Rung, _: nn.Module, args: Any, output: Any) -> None:
        h = (output[0] if isinstance(output, tuple) else output).detach()       # (batch, n, d_model)
        s, source = self.s[i], self.s[0] if i else None
        assert s is not None
        seen = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device)
        masks = [self.mask(i, h) & (seen.tril() if causal else seen)]           # (batch, 1, n, n)
        if source is not None:
            masks.append(self.mask(0, source))
        self.s[i] = rung.climb(s, h, masks, source)

    def mask(self, i: int, x: Tensor) -> Tensor:
        padding = self.padding[i]
        present = torch.ones(x.shape[:2], device=x.device) if padding is None else padding
        return present[:, None, None, :].bool()                                 # (batch, 1, 1, n)

    def end(self, i: int, stack: Any, args: Any, output: Any) -> Any:
        s = self.s[i]
        assert s is not None
        self.s[i] = s = rms_norm(s, self.g_last[i].shape, self.g_last[i])
        if i + 1 < len(self.s):
            return output
        if torch.is_grad_enabled():
            self.s = [None] * len(self.s)                                       # keeps no graph
        output.last_hidden_state = gate(self.alpha_last, linear(s, self.U, self.b_U), output.last_hidden_state)
        if getattr(stack, "pooler", None) is not None:
            output.pooler_output = stack.pooler(output.last_hidden_state)
        return output


def apply(model: nn.Module, *, r: int = 8, drop_every: int = 4, name: str = "lst") -> nn.Module:
    """Freeze the model and build the side network beside it."""
    kit.freeze(model)
    base = cast(Any, model).base_model
    stacks = {"encoder": base.encoder, "decoder": base.decoder} if hasattr(base, "decoder") else {"": base}
    d_model = kit.inventory(model).dims["d_model"]
    ladder = Ladder(d_model, d_model // r, len(stacks))
    hooks = kit.attach(model, name, ladder)
    for i, stack in enumerate(stacks.values()):
        hooks.append(stack.register_forward_pre_hook(partial(ladder.enter, i), with_kwargs=True))
    for block in kit.blocks(model, "layer"):
        i = [*stacks].index(block.stack) if len(stacks) > 1 else 0
        if block.layer == 0:
            hooks.append(block.module.register_forward_pre_hook(partial(ladder.begin, i), with_kwargs=True))
        if drop_every == 0 or block.layer % drop_every:
            rung = _rung(model, block, r, name)
            hooks.append(block.module.register_forward_hook(partial(ladder.climb, i, block.stack == "decoder", rung)))
    for i, stack in enumerate(stacks.values()):
        hooks.append(stack.register_forward_hook(partial(ladder.end, i)))
    return model


def _rung(model: nn.Module, layer: kit.Block, r: int, name: str) -> Rung:
    """The side layer of one layer of the backbone, its parts attached beside what they are narrow copies of."""
    dims = layer.dims
    d_s = dims["d_model"] // r
    attentions = []
    for block in _beside(model, layer, "attention"):
        attentions.append(SideAttention(d_s, dims["n_heads"], dims["head_dim"] // r))
        kit.attach(block.module, name, attentions[-1])
    [block] = _beside(model, layer, "mlp")
    mlp = SideMLP(d_s, dims["d_ff"] // r)
    kit.attach(block.sites["mlp.up"], name, mlp)
    rung = Rung(dims["d_model"], d_s, attentions, mlp)
    kit.attach(layer.module, name, rung)
    return rung


def _beside(model: nn.Module, layer: kit.Block, kind: str) -> list[kit.Block]:
    return [b for b in kit.blocks(model, kind) if (b.stack, b.layer) == (layer.stack, layer.layer)]
