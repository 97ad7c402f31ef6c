"""UniPELT: a unified framework for parameter-efficient language model tuning (mao2022unipelt).

    q, v:  W x + G(x) B A x;    attend(Q, [G(x) P_k; K], [G(x) P_v; V]);    LN(h + x) <- LN(h + x + G(z) A(z))
    z = LN(h + x), A(z) = W_up relu(W_down z + b_down) + b_up
    G(x) = mean over the tokens of sigmoid(g . x + c), with separate g and c for each module

Three methods at once: LoRA at the queries and values, a prefix at every attention, and in every layer the adapter of
`pfeiffer_adapter`, around the last norm or, without such a norm, after the layer. Each of these modules has a gate. The
gate computes one factor per sequence from the module's input, and scales the module's output, or the prefix. Trained:
the modules, the MLP that emits the prefixes, and the gates. At inference all of it remains except that MLP. Nothing
can be merged, because the gates depend on the input.

As in the authors' code, the gate replaces LoRA's alpha / r, and queries and values have separate gates. LoRA can also
be at keys and outputs. The mean of a gate includes padding, and with a cache it covers the new tokens only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora, prefix_tuning
from ._attention import widen
from .pfeiffer_adapter import PfeifferAdapter

QV = ("attn.q", "attn.v", "xattn.q", "xattn.v")


def gate(d: int) -> nn.Linear:
    """Return a new gate, nearly half open."""
    made = nn.Linear(d, 1)
    nn.init.normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)
    return made


def opened(gate: nn.Linear, x: Tensor) -> Tensor:
    """Return the factor of every sequence, between 0 and 1."""
    each = torch.sigmoid(gate(x))                                   # (batch, n, d) -> (batch, n, 1)
    return each.mean(dim=1, keepdim=True)                           # (batch, 1, 1)


class GatedLoRA(lora.LoRA):
    """A low-rank correction with a gate in place of alpha / r."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__(d_in, d_out, r=r, alpha=r, dropout=0.0)
        self.gate_lora = gate(d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + opened(self.gate_lora, x) * (super().after(x, y) - y)        # (batch, n, d_out)


class GatedPrefix(kit.Child):
    """The gate of one attention's prefix, which is attached to the gate."""

    prefix: prefix_tuning.Prefix

    def __init__(self, d_model: int):
        super().__init__()
        self.gate_prefix = gate(d_model)
        self.x: Tensor | None = None        # the input of the attention, until it asks for keys and values

    def read(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.x = args[0] if args else kwargs["hidden_states"]

    def keys_values(self) -> tuple[Tensor, Tensor]:
        assert self.x is not None
        g = opened(self.gate_prefix, self.x)[:, None]               # (batch, 1, 1, 1)
        self.x = None
        p_k, p_v = self.prefix.keys_values()
        return g * p_k, g * p_v                                     # (batch, n_kv_heads, prefix_length, head_dim) each


class GatedAdapter(PfeifferAdapter):
    """The adapter of one layer, with its gate."""

    def __init__(self, d_model: int, *, bottleneck: int):
        super().__init__(d_model, bottleneck=bottleneck)
        self.gate_adapter = gate(d_model)

    def delta(self, h: Tensor) -> Tensor:
        return opened(self.gate_adapter, h) * super().delta(h)                  # (batch, n, d_model)


def apply(
    model: nn.Module, *, r: int = 8, prefix_length: int = 10, use_mlp: bool = True, mid_dim: int = 512,
    bottleneck: int = 48, targets: tuple[str, ...] = QV, name: str = "unipelt",
) -> nn.Module:
    """Freeze the model and add LoRA, prefixes and adapters, all with gates."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, GatedLoRA(site.d_in, site.d_out, r=r))

    gates = []
    for block in kit.blocks(model, "attention"):
        gates.append(GatedPrefix(block.dims["d_model"]))
        kit.attach(block.module, name, gates[-1])
    prefixes = prefix_tuning.prefixes(
        model, prefix_length=prefix_length, use_mlp=use_mlp, mid_dim=mid_dim, name=f"{name}.prefix"
    )
    for gate, (block, _) in zip(gates, prefixes, strict=True):
        gate.handles.append(block.module.register_forward_pre_hook(gate.read, with_kwargs=True))
        gate.handles.append(widen(model, block.module, gate.keys_values))

    for layer in kit.blocks(model, "layer"):
        adapter = GatedAdapter(layer.dims["d_model"], bottleneck=bottleneck)
        adapter_hooks = kit.attach(layer.module, name, adapter)
        adapter_hooks.append(adapter.act(model, layer.module, layer.sites["mlp.down"].path))
    return model


def finish(model: nn.Module, name: str = "unipelt") -> nn.Module:
    """Compute the prefixes one last time and remove their emitter."""
    return prefix_tuning.finish(model, f"{name}.prefix")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states
