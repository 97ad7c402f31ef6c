"""Res-Tuning: unbinding tuners from the backbone, in its memory-efficient form (jiang2023restuning#abstract).

    s_{i+1} = T_h(h_i) + T_s(s_i),    T(x) = x + W_up gelu(W_down x + b_down) + b_up

with h_i the output of layer i, without a gradient, and s_0 the embedded image. The last s takes the place of the
backbone's states before the last norm.

Trained, and kept at inference, for each layer: two tuners T_h and T_s, each with W_down (bottleneck, d_model) and W_up
(d_model, bottleneck), Xavier-uniform at first, and with biases. The bypass runs when the backbone has ended, so that
checkpoints of layers contain none of it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from . import _kit as kit
from ._image import final_norm, require_one_width


class Tuners(kit.Child):
    """The two tuners of one layer. `previous` are those of the layer before."""

    previous: "Tuners | None"                                       # not a submodule

    def __init__(self, d: int, previous: "Tuners | None", *, bottleneck: int):
        super().__init__()
        kit.share(self, previous=previous)
        for side in "hs":
            for name, size in {"down": (bottleneck, d), "up": (d, bottleneck)}.items():
                weight = nn.init.xavier_uniform_(torch.empty(size))
                self.register_parameter(f"W_{name}_{side}", nn.Parameter(weight))
                self.register_parameter(f"b_{name}_{side}", nn.Parameter(1e-6 * torch.randn(size[0])))
        self.x: Tensor | None = None                                # the input of the first layer
        self.h: Tensor | None = None                                # the output of this layer

    def start(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x = args[0].detach()

    def read(self, h: Tensor) -> Tensor:
        self.h = h.detach()
        return h

    def tuned(self, side: str, x: Tensor) -> Tensor:
        w, v = self.get_parameter(f"W_down_{side}"), self.get_parameter(f"W_up_{side}")
        z = gelu(linear(x, w, self.get_parameter(f"b_down_{side}")))                        # (batch, n, bottleneck)
        return x + linear(z, v, self.get_parameter(f"b_up_{side}"))                         # (batch, n, d)

    def bypass(self) -> Tensor:
        """Return the state of the bypass behind this layer, and forget what it was computed from."""
        s = self.x if self.previous is None else self.previous.bypass()
        h, self.x, self.h = self.h, None, None
        assert s is not None
        assert h is not None
        return self.tuned("h", h) + self.tuned("s", s)

    def end(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.bypass().to(args[0].dtype), *args[1:]


def apply(model: nn.Module, *, bottleneck: int = 32) -> nn.Module:
    """Freeze the model and put the bypass beside its layers. Raises UsageError for a model that reads text."""
    require_one_width(model)
    kit.freeze(model)
    d, last = kit.inventory(model).dims["d_model"], None
    for layer in kit.blocks(model, "layer"):
        tuners = Tuners(d, last, bottleneck=bottleneck)
        hooks = kit.attach(layer.module, "res_tuning", tuners)
        hooks.append(kit.on_layer_output(layer.module, tuners.read))
        if last is None:
            hooks.append(layer.module.register_forward_pre_hook(tuners.start))
        last = tuners
    if last is not None:
        last.handles.append(final_norm(model).register_forward_pre_hook(last.end))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the model on recorded images; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states
