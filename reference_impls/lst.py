"""LST: ladder side-tuning (sung2022lst#section-3).

    s <- S_l(m_l s + (1 - m_l) D_l h_l),    m_l = sigmoid(alpha_l / T);    out = U s

A transformer that is `r` times narrower runs beside the frozen one. Before each of its layers S_l it takes in the
state h_l of the backbone's layer, narrowed by D_l; at the end its state is widened by U and takes the place of the
backbone's last state before the head. Nothing that is trained lies below anything of the backbone but its head, so no
gradient passes through the backbone and none of its activations is kept. Trained, and kept at inference: the whole side
network. It has no layer beside every `drop_every`-th one of the backbone, the first included (0: a layer beside each).

The side layers here are those of T5 for every family: gains without biases, unscaled attention, ReLU; and without
position biases, since the states they take in know their positions. They start as T5 does, with the widths of the
backbone. The authors' script then copies a pruned backbone over that start, which matters for quality. A cache is
refused: the side network would need its own.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from . import _kit as kit

TEMPERATURE = 0.1


EPSILON = 1e-6
"""Of the norms."""


def weight(*shape: int, std: float = 0.01) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(shape))


def gate(alpha: Tensor, side: Tensor, other: Tensor) -> Tensor:
    m = torch.sigmoid(alpha / TEMPERATURE)
    return m * side + (1 - m) * other


class SideAttention(kit.Child):
    """One attention of the side network: of d_s numbers per position, and heads r times narrower."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int, *, r: int):
        super().__init__()
        self.n_heads = n_heads
        d_s, d_attn = d_model // r, n_heads * (head_dim // r)
        self.g_attn = nn.Parameter(torch.ones(d_s))
        self.W_q = weight(d_attn, d_s, std=(d_model * head_dim) ** -0.5)
        self.W_k, self.W_v = (weight(d_attn, d_s, std=d_model**-0.5) for _ in range(2))
        self.W_o = weight(d_s, d_attn, std=(n_heads * head_dim) ** -0.5)

    def add(self, s: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        x = rms_norm(s, self.g_attn.shape, self.g_attn, EPSILON)
        y = x if source is None else source
        q, k, v = (self.split(linear(a, w)) for a, w in ((x, self.W_q), (y, self.W_k), (y, self.W_v)))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)  # (batch, n_heads, n, head_dim)
        return s + linear(mixed.transpose(1, 2).flatten(2), self.W_o)           # (batch, n, d_s)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)           # (batch, n_heads, n, head_dim)


class SideMLP(kit.Child):
    """One feed-forward block of the side network."""

    def __init__(self, d_model: int, d_ff: int, *, r: int):
        super().__init__()
        self.g_mlp = nn.Parameter(torch.ones(d_model // r))
        self.W_in = weight(d_ff // r, d_model // r, std=d_model**-0.5)
        self.W_out = weight(d_model // r, d_ff // r, std=d_ff**-0.5)

    def add(self, s: Tensor) -> Tensor:
        z = torch.relu(linear(rms_norm(s, self.g_mlp.shape, self.g_mlp, EPSILON), self.W_in))    # (batch, n, d_hidden)
        return s + linear(z, self.W_out)                                        # (batch, n, d_s)


class Rung(kit.Child):
    """How a layer's state enters the side network, and the side layer that follows."""

    mlp: SideMLP                # not a submodule

    def __init__(self, d_model: int, d_s: int, attentions: list[SideAttention], mlp: SideMLP):
        super().__init__()
        self.attentions = attentions        # a list, not submodules: each is attached beside what it is a copy of
        kit.share(self, mlp=mlp)
        self.D, self.b_D = weight(d_s, d_model), nn.Parameter(torch.zeros(d_s))
        self.alpha = nn.Parameter(torch.zeros(1))

    def climb(self, s: Tensor, h: Tensor, masks: list[Tensor], source: Tensor | None) -> Tensor:
        s = gate(self.alpha, s, linear(h, self.D, self.b_D))                    # (batch, n, d_s)
        for attention, mask, other in zip(self.attentions, masks, (None, source), strict=False):
            s = attention.add(s, other, mask)
        return self.mlp.add(s)


class Ladder(kit.Child):
    """The ends of the side network, and its state while the backbone runs: one for each stack."""

    def __init__(self, d_model: int, d_s: int, n_stacks: int):
        super().__init__()
        self.D_first = nn.ParameterList(weight(d_s, d_model) for _ in range(n_stacks))
        self.b_first = nn.ParameterList(torch.zeros(d_s) for _ in range(n_stacks))
        self.g_last = nn.ParameterList(torch.ones(d_s) for _ in range(n_stacks))
        self.U, self.b_U = weight(d_model, d_s), nn.Parameter(torch.zeros(d_model))
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
        self.s[i] = s = rms_norm(s, self.g_last[i].shape, self.g_last[i], EPSILON)
        if i + 1 < len(self.s):
            return output
        if torch.is_grad_enabled():
            self.s = [None] * len(self.s)                                       # keeps no graph
        output.last_hidden_state = linear(s, self.U, self.b_U)                  # (batch, n, d_s) -> (batch, n, d_model)
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
    inner = [*kit.blocks(model, "attention"), *kit.blocks(model, "mlp")]
    for block in kit.blocks(model, "layer"):
        i = [*stacks].index(block.stack) if len(stacks) > 1 else 0
        if block.layer == 0:
            hooks.append(block.module.register_forward_pre_hook(partial(ladder.begin, i), with_kwargs=True))
        if drop_every == 0 or block.layer % drop_every:
            rung = _rung(block, [b for b in inner if (b.stack, b.layer) == (block.stack, block.layer)], r, name)
            hooks.append(block.module.register_forward_hook(partial(ladder.climb, i, block.stack == "decoder", rung)))
    for i, stack in enumerate(stacks.values()):
        hooks.append(stack.register_forward_hook(partial(ladder.end, i)))
    return model


def _rung(layer: kit.Block, inner: list[kit.Block], r: int, name: str) -> Rung:
    """The side layer of one layer of the backbone, its parts attached to the inner blocks that they narrow."""
    dims = layer.dims
    *attention_blocks, mlp_block = inner
    attentions = []
    for block in attention_blocks:
        attentions.append(SideAttention(dims["d_model"], dims["n_heads"], dims["head_dim"], r=r))
        kit.attach(block.module, name, attentions[-1])
    mlp = SideMLP(dims["d_model"], dims["d_ff"], r=r)
    kit.attach(mlp_block.sites["mlp.up"], name, mlp)
    rung = Rung(dims["d_model"], dims["d_model"] // r, attentions, mlp)
    kit.attach(layer.module, name, rung)
    return rung


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {name: value for name, value in inputs.items() if name != "probe"}
    logits: Tensor = model(**batch, use_cache=False).logits
    return logits
