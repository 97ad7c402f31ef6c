"""AttentionFusion: a light late fusion of the layers of a frozen network (cao2022attentionfusion).

    z_j = sum_l a_jl h_jl,    a_jl = softmax_l(q . h_jl / sqrt(d_model))

What suits a task best may be in the middle of the network. Each token looks with the task's query q over its own
states in all layers, the embedded input included, and the head reads the mixture instead of the last state. Trained,
and kept at inference: q (d_model,). The network is only read, so no gradient passes through it, and all tasks
can share one run of it.

Nobody here has read more of the paper than its abstract, and no code is known: keys and values that are the states
themselves are the smallest form of what it describes. In an encoder-decoder the decoder's states are fused.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit


class Fusion(kit.Child):
    """The task's query, and the states of the layers while the network runs."""

    def __init__(self, d_model: int, n_layers: int):
        super().__init__()
        self.q = nn.Parameter(0.02 * torch.randn(d_model))
        self.n_layers = n_layers
        self.states, self.seen = torch.empty(0), 0

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]            # (batch, n, d_model)
        self.states, self.seen = x.new_empty(self.n_layers + 1, *x.shape), 0
        self.note(x)

    def note(self, h: Tensor) -> None:
        self.states[self.seen] = h.detach()
        self.seen += 1

    def collect(self, _: nn.Module, args: Any, output: Any) -> None:
        if self.seen < self.n_layers:       # the last state is taken behind the final norm, where heads expect it
            self.note(output[0] if isinstance(output, tuple) else output)

    def fuse(self, h: Tensor) -> Tensor:
        """The states of all layers, (n_layers + 1, batch, n, d_model), as one."""
        a = torch.softmax(h @ self.q / len(self.q) ** 0.5, dim=0)   # (n_layers + 1, batch, n)
        return torch.einsum("lbn,lbnd->bnd", a, h)                  # no product of a and h as large as h

    def end(self, base: Any, args: Any, output: Any) -> Any:
        self.note(output.last_hidden_state)
        output.last_hidden_state = self.fuse(self.states)
        self.states = torch.empty(0)                                # keeps no memory
        if (pooled := kit.pooled(base, output.last_hidden_state)) is not None:
            output.pooler_output = pooled
        return output


def apply(model: nn.Module, *, name: str = "attentionfusion") -> nn.Module:
    """Freeze the model and let its head read a mixture of all layers."""
    kit.freeze(model)
    base = kit.base(model)
    layers = kit.blocks(model, "layer")
    last = [block for block in layers if block.stack == layers[-1].stack]
    fusion = Fusion(last[0].dims["d_model"], len(last))
    hooks = kit.attach(model, name, fusion)
    hooks.append(last[0].module.register_forward_pre_hook(fusion.begin, with_kwargs=True))
    hooks += [block.module.register_forward_hook(fusion.collect) for block in last]
    hooks.append(getattr(base, "decoder", base).register_forward_hook(fusion.end))
    return model
