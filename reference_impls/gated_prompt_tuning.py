"""Gated prompt tuning (yoo2023gated; code_gated_prompt_tuning#src/models/vit_prompt/vit_mae.py).

    P_{i+1} <- sigmoid(g_i) L_i(P_i) + (1 - sigmoid(g_i)) P_i,    attention i: softmax(q k^T / (t_i sqrt(head_dim)))

with P_i the states of the prompt before layer i, and L_i(P_i) those behind it. The states of the class token and the
patches are L_i's own. The gate of the last layer is left out, since nothing reads the prompt behind it.

Trained, and kept at inference: the prompt P (prompt_length, d_embed), a gate g for each layer except the last, and a
temperature t for each attention, which every forward pass brings back to the range from t_min to t_max. g starts at
-gate_init: the prompt passes the layers nearly unchanged.
"""


import torch
from torch import Tensor, nn

from . import _kit as kit
from . import vpt
from ._image import prompt_bound, require_one_width
from ._prompt import behind_first


class Gate(kit.Child):
    """The gate of one layer on the states of the prompt."""

    def __init__(self, *, prompt_length: int, gate_init: float):
        super().__init__()
        self.prompt_length = prompt_length
        self.g = nn.Parameter(torch.full((1,), -float(gate_init)))

    def mix(self, _: nn.Module, args: tuple[Tensor, ...], h: Tensor) -> Tensor:
        end, gate = 1 + self.prompt_length, torch.sigmoid(self.g)
        p = gate * h[:, 1:end] + (1 - gate) * args[0][:, 1:end]                 # (batch, length, d)
        return behind_first(h, self.prompt_length, p.to(h.dtype))


class Temperature(kit.Child):
    """The temperature of one attention, by which its queries are divided."""

    def __init__(self, *, t_min: float, t_max: float):
        super().__init__()
        self.bounds = t_min, t_max
        self.t = nn.Parameter(torch.ones(1))

    def after(self, x: Tensor, q: Tensor) -> Tensor:
        self.t.data.clamp_(*self.bounds)        # outside of autograd: the gradient still moves it from the bound
        return q / self.t


def apply(
    model: nn.Module, *, prompt_length: int = 5, gate_init: float = 10.0, dropout: float = 0.1, t_min: float = 0.01,
    t_max: float = 10.0, targets: tuple[str, ...] = ("attn.q",),
) -> nn.Module:  # fmt: skip
    """Freeze the model, put a prompt into its input, a gate behind its layers and a temperature on its queries.

    Raises UsageError for a model of text, and for layers of different widths.
    """
    require_one_width(model)
    d = kit.inventory(model).dims["d_embed"]
    kit.freeze(model)
    base = kit.base(model)
    bound = prompt_bound(model)
    prompt = vpt.Prompt(d, prompt_length=prompt_length, bound=bound, dropout=dropout)
    hooks = kit.attach(model, "gated_prompt_tuning", prompt)
    hooks.append(base.embeddings.register_forward_hook(prompt.enter))
    hooks.append(base.register_forward_hook(prompt.leave))
    for layer in kit.blocks(model, "layer")[:-1]:
        gate = Gate(prompt_length=prompt_length, gate_init=gate_init)
        kit.attach(layer.module, "gated_prompt_tuning", gate).append(layer.module.register_forward_hook(gate.mix))
    for site in kit.sites(model, targets):
        kit.attach(site, "gated_prompt_tuning", Temperature(t_min=t_min, t_max=t_max))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return vpt.probe(model, inputs)
