"""LST: ladder side-tuning (sung2022lst#section-3).

    s <- S_l(m_l s + (1 - m_l) D_l h_l),    m_l = sigmoid(alpha_l / T);    out = U s

A side network, a transformer that is `r` times narrower, runs beside the frozen backbone. Before each side layer S_l,
D_l narrows the output h_l of the backbone's layer, and a gate mixes it into the side network's state s. At the end, U
widens the state, and the result replaces the backbone's last hidden state. The layers of the backbone do not depend on
trained parameters, so no gradient flows through them, and none of their activations is saved. Trained, and kept at
inference: the whole side network. Every `drop_every`-th layer of the backbone, starting with the first, has no side
layer (0: each layer has one).

The side layers are those of T5 for every family: norms without biases, unscaled attention, ReLU. They have no position
biases, because the mixed-in states carry the positions. They start as in T5 with the backbone's widths. The authors'
script then copies a pruned backbone into them, which matters for quality. A cache is refused, because the side network
would need its own.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from . import _kit as kit

TEMPERATURE = 0.1
EPSILON = 1e-6      # of the norms


def weight(*shape: int, std: float = 0.01) -> nn.Parameter:
    """Return a normal weight of this shape."""
    return nn.Parameter(std * torch.randn(shape))


def gate(alpha: Tensor, side: Tensor, other: Tensor) -> Tensor:
    """Mix two states of width d_s: m = sigmoid(alpha / T) of the first, the rest of the second."""
    m = torch.sigmoid(alpha / TEMPERATURE)
    return m * side + (1 - m) * other


class SideAttention(kit.Child):
    """One attention of the side network, of width d_s. Its heads are r times narrower than the backbone's."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int, *, r: int):
        super().__init__()
        self.n_heads = n_heads
        d_s, d_attn = d_model // r, n_heads * (head_dim // r)
        self.g_attn = nn.Parameter(torch.ones(d_s))
        self.W_q = weight(d_attn, d_s, std=(d_model * head_dim) ** -0.5)
        self.W_k, self.W_v = (weight(d_attn, d_s, std=d_model**-0.5) for _ in range(2))
        self.W_o = weight(d_s, d_attn, std=(n_heads * head_dim) ** -0.5)

    def add(self, s: Tensor, mask: Tensor, encoded: Tensor | None = None) -> Tensor:
        """Add self-attention or, given the state of the side network's encoder, cross-attention."""
        x = rms_norm(s, self.g_attn.shape, self.g_attn, EPSILON)
        y = x if encoded is None else encoded
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
    """A side layer, with the matrix and the gate that mix the output of the backbone's layer into it."""

    attn: SideAttention             # not submodules: these three are attached to the backbone's blocks
    xattn: SideAttention | None
    mlp: SideMLP

    def __init__(self, d_model: int, d_s: int, attn: SideAttention, xattn: SideAttention | None, mlp: SideMLP):
        super().__init__()
        kit.share(self, attn=attn, xattn=xattn, mlp=mlp)
        self.D, self.b_D = weight(d_s, d_model), nn.Parameter(torch.zeros(d_s))
        self.alpha = nn.Parameter(torch.zeros(1))

    def climb(
        self, s: Tensor, h: Tensor, mask: Tensor, encoded: Tensor | None, encoded_mask: Tensor | None
    ) -> Tensor:
        s = gate(self.alpha, s, linear(h, self.D, self.b_D))                    # (batch, n, d_s)
        s = self.attn.add(s, mask)
        if self.xattn is not None and encoded_mask is not None:
            s = self.xattn.add(s, encoded_mask, encoded)
        return self.mlp.add(s)


class Ladder(kit.Child):
    """The first and last layers of the side network. All but U and b_U exist once for each stack."""

    def __init__(self, d_model: int, d_s: int, n_stacks: int):
        super().__init__()
        self.D_first = nn.ParameterList(weight(d_s, d_model) for _ in range(n_stacks))
        self.b_first = nn.ParameterList(torch.zeros(d_s) for _ in range(n_stacks))
        self.g_last = nn.ParameterList(torch.ones(d_s) for _ in range(n_stacks))
        self.U, self.b_U = weight(d_model, d_s), nn.Parameter(torch.zeros(d_model))


class Run:
    """One pass of the side network beside one stack of the backbone. The methods are hooks, in the order of the pass.

    `s` is the state of the side network between two hooks. A decoder also uses the `encoder`'s last state.
    """

    s: Tensor
    padding: Tensor | None

    def __init__(self, ladder: Ladder, i: int, *, causal: bool, encoder: "Run | None"):
        self.ladder, self.i, self.causal, self.encoder = ladder, i, causal, encoder

    def enter(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the stack: note the padding, and refuse a cache."""
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() > 0:
            raise NotImplementedError("ladder side-tuning keeps no cache: generate with use_cache=False")
        self.padding = kwargs.get("attention_mask")

    def begin(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first layer: start from its narrowed input."""
        x = args[0] if args else kwargs["hidden_states"]
        first, bias = self.ladder.D_first[self.i], self.ladder.b_first[self.i]
        self.s = linear(x.detach(), first, bias)                                # (batch, n, d_model) -> (batch, n, d_s)

    def climb(self, rung: Rung, layer: nn.Module, args: Any, output: Any) -> None:
        """After a layer with a side layer: mix its output in and run the side layer."""
        h = (output[0] if isinstance(output, tuple) else output).detach()       # (batch, n, d_model)
        seen = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device)
        mask = self.present(h) & (seen.tril() if self.causal else seen)         # (batch, 1, n, n)
        encoded = encoded_mask = None
        if self.encoder is not None:
            encoded, encoded_mask = self.encoder.s, self.encoder.present(self.encoder.s)
        self.s = rung.climb(self.s, h, mask, encoded, encoded_mask)

    def end(self, stack: Any, args: Any, output: Any) -> Any:
        """After the stack: apply the norm, or in the last stack replace the hidden state too."""
        gain = self.ladder.g_last[self.i]
        self.s = s = rms_norm(self.s, gain.shape, gain, EPSILON)
        if self.i + 1 < len(self.ladder.g_last):
            return output
        if torch.is_grad_enabled():         # free the graph; without one, the decoder may run again for this encoder
            for run in filter(None, (self, self.encoder)):
                del run.s
        output.last_hidden_state = linear(s, self.ladder.U, self.ladder.b_U)    # (batch, n, d_s) -> (batch, n, d_model)
        if (pooled := kit.pooled(stack, output.last_hidden_state)) is not None:
            output.pooler_output = pooled
        return output

    def present(self, x: Tensor) -> Tensor:
        """Return the mask of tokens that are not padding, (batch, 1, 1, n)."""
        padding = torch.ones(x.shape[:2], device=x.device) if self.padding is None else self.padding
        return padding[:, None, None, :].bool()


def apply(model: nn.Module, *, r: int = 8, drop_every: int = 4, name: str = "lst") -> nn.Module:
    """Freeze the model and build the side network beside it."""
    kit.freeze(model)
    base = kit.base(model)
    two = hasattr(base, "encoder") and hasattr(base, "decoder")
    stacks = {"encoder": base.encoder, "decoder": base.decoder} if two else {"": getattr(base, "decoder", base)}
    d_model = kit.inventory(model).dims["d_model"]
    ladder = Ladder(d_model, d_model // r, len(stacks))
    hooks = kit.attach(model, name, ladder)
    inner = [*kit.blocks(model, "attention"), *kit.blocks(model, "mlp")]
    encoder: Run | None = None
    for i, (stack, module) in enumerate(stacks.items()):
        layers = [layer for layer in kit.blocks(model, "layer") if len(stacks) == 1 or layer.stack == stack]
        encoder = run = Run(ladder, i, causal=layers[0].stack == "decoder", encoder=encoder)
        hooks.append(module.register_forward_pre_hook(run.enter, with_kwargs=True))
        hooks.append(layers[0].module.register_forward_pre_hook(run.begin, with_kwargs=True))
        for layer in layers:
            if drop_every == 0 or layer.layer % drop_every:
                parts = {b.name: b for b in inner if (b.stack, b.layer) == (layer.stack, layer.layer)}
                hooks.append(layer.module.register_forward_hook(partial(run.climb, _rung(layer, parts, r, name))))
        hooks.append(module.register_forward_hook(run.end))
    return model


def _rung(layer: kit.Block, parts: dict[str, kit.Block], r: int, name: str) -> Rung:
    """Attach the parts of a side layer to the backbone's blocks of the same name (attn, xattn, mlp)."""
    dims, attentions = layer.dims, dict[str, SideAttention]()
    for part in ("attn", "xattn"):
        if part in parts:
            attentions[part] = SideAttention(dims["d_model"], dims["n_heads"], dims["head_dim"], r=r)
            kit.attach(parts[part].module, name, attentions[part])
    mlp = SideMLP(dims["d_model"], dims["d_ff"], r=r)
    kit.attach(parts["mlp"].sites["mlp.up"], name, mlp)
    rung = Rung(dims["d_model"], dims["d_model"] // r, attentions["attn"], attentions.get("xattn"), mlp)
    kit.attach(layer.module, name, rung)
    return rung


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {name: value for name, value in inputs.items() if name != "probe"}
    logits: Tensor = model(**batch, use_cache=False).logits
    return logits
