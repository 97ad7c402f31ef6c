"""UniPELT: a unified framework for parameter-efficient language model tuning (mao2022unipelt).

    q, v:  W x + G(x) B A x;    attend(Q, [G(x) P_k; K], [G(x) P_v; V]);    LN(h + x) <- LN(h + x + G(z) A(z))
    z = LN(h + x), A(z) = W_up relu(W_down z + b_down) + b_up
    G(x) = mean over the tokens of sigmoid(g . x + c), with g and c of its own at each place

Three methods at once: LoRA at the queries and values, a prefix at every attention, and in every layer the adapter of
`pfeiffer_adapter`, around the last norm or, without such a norm, behind the layer. A gate before each of them has the
module's input and decides how much of it this text gets. LoRA, prefixes and adapters are the single methods' own
modules, which act through their gates here. Trained: all of them, with the MLP that emits the prefixes, and the gates.
At inference all but that MLP remains; nothing merges, since the gates depend on the input.

As in the authors' code the gate takes the place of LoRA's alpha / r, and queries and values have gates of their own;
LoRA may also stand at keys and outputs. A gate's mean counts padding, and with a cache the new tokens only.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora, prefix_tuning
from ._attention import widen
from .pfeiffer_adapter import PfeifferAdapter

QV = ("attn.q", "attn.v", "xattn.q", "xattn.v")


def gate(d: int) -> nn.Linear:
    """A new gate, which starts nearly half open."""
    made = nn.Linear(d, 1)
    nn.init.normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)
    return made


def opened(gate: nn.Linear, x: Tensor) -> Tensor:
    """How much of a module each text gets, between 0 and 1."""
    each = torch.sigmoid(gate(x))                                   # (batch, n, d) -> (batch, n, 1)
    return each.mean(dim=1, keepdim=True)                           # (batch, 1, 1)


class GatedLoRA(lora.LoRA):
    """The low-rank correction beside one weight, with its gate in the place of alpha / r."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__(d_in, d_out, r=r, alpha=r, dropout=0.0)
        self.gate_lora = gate(d_in)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + opened(self.gate_lora, x) * (super().after(x, y) - y)        # (batch, n, d_out)


class GatedPrefix(kit.Child):
    """The gate of one attention, through which its prefix acts."""

    part: prefix_tuning.Prefix  # not a submodule

    def __init__(self, d_model: int):
        super().__init__()
        self.gate_prefix = gate(d_model)
        self.x: Tensor | None = None

    def behind(self, part: prefix_tuning.Prefix) -> None:
        """From now on the prefix acts through this gate only."""
        kit.share(self, part=part)
        for handle in part.handles:
            handle.remove()

    def read(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.x = args[0] if args else kwargs["hidden_states"]

    def keys_values(self) -> tuple[Tensor, Tensor]:
        assert self.x is not None
        g = opened(self.gate_prefix, self.x)[:, None]               # (batch, 1, 1, 1)
        self.x = None                                               # keeps neither memory nor graph
        p_k, p_v = self.part.keys_values()
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
    """Freeze the model and give it all three, each behind gates."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, GatedLoRA(site.d_in, site.d_out, r=r))

    attentions = [(block.module, GatedPrefix(block.dims["d_model"])) for block in kit.blocks(model, "attention")]
    hooks = [kit.attach(attention, name, gate) for attention, gate in attentions]
    prefix_tuning.apply(model, prefix_length=prefix_length, use_mlp=use_mlp, mid_dim=mid_dim, name=f"{name}.prefix")
    for (attention, gate), hung in zip(attentions, hooks, strict=True):
        gate.behind(cast(prefix_tuning.Prefix, attention.get_submodule(f"{name}.prefix")))
        hung.append(attention.register_forward_pre_hook(gate.read, with_kwargs=True))
        hung.append(widen(model, attention, gate.keys_values))

    for layer in kit.blocks(model, "layer"):
        adapter = GatedAdapter(layer.dims["d_model"], bottleneck=bottleneck)
        adapter_hooks = kit.attach(layer.module, name, adapter)
        adapter_hooks.append(adapter.act(model, layer.module, layer.sites["mlp.down"].path))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states


def finish(model: nn.Module, name: str = "unipelt") -> nn.Module:
    """Compute the prefixes one last time and drop what emitted them."""
    return prefix_tuning.finish(model, f"{name}.prefix")
