"""UniPELT: a unified framework for parameter-efficient language model tuning (mao2022unipelt).

    q, v:  W x + G(x) B A x;    attend(Q, [G(x) P_k; K], [G(x) P_v; V]);    h <- h + G(h) (W_up relu(W_down h + b) + b)
    G(x) = mean over the tokens of sigmoid(g . x + c), with g and c of its own at each place

Three methods at once: LoRA at the queries and values, a prefix at every attention, and an adapter behind every
feed-forward block. A gate before each of them looks at what the module reads and says how much of it this text
gets. LoRA and the prefixes are the single methods' own modules, which act through their gates here. Trained: all of
them, with the MLP that emits the prefixes, and the gates. At inference all but that MLP remains; nothing merges,
since the gates depend on the input.

As in the authors' code the gate takes the place of LoRA's alpha / r, and queries and values have gates of their own;
LoRA may also stand at keys and outputs. A gate's mean counts padding, and with a cache the new tokens only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from . import lora, prefix_tuning
from ._attention import widen

QV = ("attn.q", "attn.v", "xattn.q", "xattn.v")


def opened(gate: nn.Linear, x: Tensor) -> Tensor:
    """How much of a module each text gets, between 0 and 1."""
    each = torch.sigmoid(gate(x))                                   # (batch, n, d) -> (batch, n, 1)
    return each.mean(dim=1, keepdim=True)                           # (batch, 1, 1)


class GatedLoRA(lora.LoRA):
    """The low-rank correction beside one weight, with its gate in the place of alpha / r."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__(d_in, d_out, r=r, alpha=r, dropout=0.0)
        self.gate_lora = nn.Linear(d_in, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + opened(self.gate_lora, x) * (super().after(x, y) - y)        # (batch, n, d_out)


class GatedPrefix(nn.Module):
    """The gate of one attention, through which its prefix acts."""

    part: prefix_tuning.Prefix  # a plain attribute: it is attached itself

    def __init__(self, d_model: int):
        super().__init__()
        self.gate_prefix = nn.Linear(d_model, 1)
        self.x: Tensor | None = None

    def behind(self, part: nn.Module) -> None:
        """From now on the prefix acts through this gate only."""
        vars(self)["part"] = part
        for handle in vars(part)["handles"]:
            handle.remove()

    def read(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.x = args[0] if args else kwargs["hidden_states"]

    def keys_values(self) -> tuple[Tensor, Tensor]:
        assert self.x is not None
        g = opened(self.gate_prefix, self.x)[:, None]               # (batch, 1, 1, 1)
        self.x = None                                               # keeps neither memory nor graph
        p_k, p_v = self.part.keys_values()
        return g * p_k, g * p_v                                     # (batch, n_kv_heads, prefix_length, head_dim) each


class GatedAdapter(nn.Module):
    """The adapter behind one feed-forward block, with its gate."""

    def __init__(self, d_model: int, *, bottleneck: int):
        super().__init__()
        self.W_down = nn.Parameter(0.02 * torch.randn(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(0.02 * torch.randn(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))
        self.gate_adapter = nn.Linear(d_model, 1)

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        z = torch.relu(linear(h, self.W_down, self.b_down))         # (batch, n, d_model) -> (batch, n, bottleneck)
        return h + opened(self.gate_adapter, h) * linear(z, self.W_up, self.b_up)


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
        gate.behind(attention.get_submodule(f"{name}.prefix"))
        hung.append(attention.register_forward_pre_hook(gate.read, with_kwargs=True))
        hung.append(widen(model, attention, gate.keys_values))

    for block in kit.blocks(model, "mlp"):
        kit.attach(block.sites["mlp.down"], name, GatedAdapter(block.dims["d_model"], bottleneck=bottleneck))
    return model


def finish(model: nn.Module, name: str = "unipelt") -> nn.Module:
    """Compute the prefixes one last time and drop what emitted them."""
    return prefix_tuning.finish(model, f"{name}.prefix")
