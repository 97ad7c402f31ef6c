"""AdapterDrop: on the efficiency of adapters in transformers (ruckle2021adapterdrop).

    h <- h + W_up relu(W_down h + b_down) + b_up    in layers n_drop and above;    h <- h    below

Adapters are left out of the lowest `n_drop` layers (of each stack). Specialised to one n_drop, those layers have
none, and are the pretrained model's: several tasks can share one run of them. With `robust` all layers have them,
every training batch drops those below an n drawn anew from 0 .. L - 1, and n_drop, chosen afterwards, is where
inference starts. Trained: W_down (bottleneck, d_out), W_up (d_out, bottleneck) and their biases, in the robust form
those of all layers. At inference all that was trained remains.

While training, a dropped adapter runs and is multiplied by zero, so that its gradient is zero and not absent. The
adapter follows the last linear map of the block; the authors' library puts it behind the residual and its norm.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._blocks import Bottleneck


class Start(nn.Module):
    """The first layer that has adapters in this forward pass."""

    def __init__(self, n_layers: int, *, n_drop: int, robust: bool):
        super().__init__()
        self.n_layers, self.n_drop, self.robust = n_layers, n_drop, robust
        self.n = n_drop

    def draw(self, model: nn.Module, args: object) -> None:
        drawn = self.robust and self.training
        self.n = int(torch.randint(self.n_layers, ())) if drawn else self.n_drop


class Droppable(Bottleneck):
    """An adapter that is skipped when its layer is dropped."""

    start: Start        # a plain attribute, a submodule of no adapter

    def __init__(self, d: int, start: Start, layer: int, *, bottleneck: int):
        super().__init__(d, bottleneck=bottleneck)
        vars(self)["start"] = start
        self.layer = layer

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        if self.layer >= self.start.n:
            return h + self.delta(h)                                # (..., d_out)
        return h + 0 * self.delta(h) if self.training else h        # (..., d_out)


def apply(
    model: nn.Module, *, bottleneck: int, n_drop: int = 5, robust: bool = False,
    targets: tuple[str, ...] = ("mlp.down",), name: str = "adapterdrop",
) -> nn.Module:
    """Freeze the model and put adapters into its layers from `n_drop` on, or with `robust` into all."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    start = Start(1 + max(site.layer or 0 for site in sites), n_drop=n_drop, robust=robust)
    kit.attach(model, name, start).append(model.register_forward_pre_hook(start.draw))
    for site in sites:
        layer = site.layer or 0
        if robust or layer >= n_drop:
            kit.attach(site, name, Droppable(site.d_out, start, layer, bottleneck=bottleneck))
    return model
