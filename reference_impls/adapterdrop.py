"""AdapterDrop: on the efficiency of adapters in transformers (ruckle2021adapterdrop).

    LN(h + x) <- LN(h + x + A(LN(h + x)))  where a norm follows the residual,    y <- y + A(y)  elsewhere
    in layers n_drop and above;  nothing below;    A(z) = W_up relu(W_down z + b_down) + b_up

Adapters are left out of the lowest `n_drop` layers (of each stack). Specialised to one n_drop, those layers have
none, and are the pretrained model's: several tasks can share one run of them. With `robust` all layers have them,
every training batch drops those below an n drawn anew from 0 .. L - 1, and n_drop, chosen afterwards, is where
inference starts. Trained: W_down (bottleneck, d_out), W_up (d_out, bottleneck) and their biases, in the robust form
those of all layers. At inference all that was trained remains.

While training, a dropped adapter runs and is multiplied by zero, so that its gradient is zero and not absent. Behind
the feed-forward block the adapter stands where that of `pfeiffer_adapter` does. Behind an attention it is around the
norm that follows the residual, or without such a norm before the residual.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._bottleneck import Bottleneck
from .pfeiffer_adapter import Placed, norm_behind


class Start(kit.Child):
    """The first layer that has adapters in this forward pass."""

    def __init__(self, n_layers: int, *, n_drop: int, robust: bool):
        super().__init__()
        self.n_layers, self.n_drop, self.robust = n_layers, n_drop, robust
        self.n = n_drop

    def draw(self, model: nn.Module, args: object) -> None:
        drawn = self.robust and self.training
        self.n = int(torch.randint(self.n_layers, ())) if drawn else self.n_drop


class Droppable(Bottleneck, Placed):
    """An adapter that is skipped when its layer is dropped."""

    start: Start        # not a submodule

    def __init__(self, d: int, start: Start, layer: int, *, bottleneck: int):
        super().__init__(d, bottleneck=bottleneck)
        kit.share(self, start=start)
        self.layer = layer

    def delta(self, h: Tensor) -> Tensor:
        if self.layer >= self.start.n:
            return super().delta(h)                                 # (..., d_out)
        return 0 * super().delta(h) if self.training else torch.zeros_like(h)   # (..., d_out)


def apply(
    model: nn.Module, *, bottleneck: int, n_drop: int = 5, robust: bool = False,
    targets: tuple[str, ...] = ("mlp.down",), name: str = "adapterdrop",
) -> nn.Module:
    """Freeze the model and put adapters into its layers from `n_drop` on, or with `robust` into all."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    start = Start(1 + max(site.layer or 0 for site in sites), n_drop=n_drop, robust=robust)
    kit.attach(model, name, start).append(model.register_forward_pre_hook(start.draw))
    layers = {(block.stack, block.layer): block.module for block in kit.blocks(model, "layer")}
    for site in sites:
        layer = site.layer or 0
        if robust or layer >= n_drop:
            child = Droppable(site.d_out, start, layer, bottleneck=bottleneck)
            hooks = kit.attach(site.module, name, child)
            if (norm := norm_behind(model, site.path)) is not None:
                hooks.append(norm.register_forward_hook(child.around))
            elif site.role == "mlp.down":
                hooks.append(kit.on_layer_output(layers[site.stack, layer], child.behind))
            else:
                hooks.append(kit.on_output(site, child.after))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs, or draw the first layer often; for the golden vectors."""
    if "draws" in inputs:
        [start] = (child for child in kit.attached(model, "adapterdrop") if isinstance(child, Start))
        drawn = set()
        for _ in range(int(inputs["draws"])):
            start.draw(model, ())
            drawn.add(start.n)
        return {"drawn": torch.tensor(sorted(drawn))}
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    return {"output": model(**batch).last_hidden_state}
