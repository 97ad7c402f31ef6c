"""GLoRA: one-for-all, generalised LoRA (chavan2023glora; code_glora#GLoRA/layer.py).

    h = (W_0 + W_0 * A + B) x + b_0 + b_0 * D + E + W_0 C        * entry by entry

Trained on every targeted weight: A and B, each a product A_d A_u of rank r, a vector over the outputs or a number;
and where there is a bias C, a product C_d C_u or a vector over the inputs, and D and E, vectors over the outputs or
numbers. At inference nothing is left: all are folded into W_0 and b_0. The authors draw the forms anew for each layer
and step and search for the best ones afterwards; here, as in peft, one choice holds everywhere.
"""

from typing import cast

import torch
from torch import Tensor, nn

from . import _kit as kit


class Parts(kit.Child):
    """The five parts of one linear map. A part is a number, a vector, or two factors `_d` and `_u`, or missing."""

    site: kit.Site

    def __init__(
        self, d_in: int, d_out: int, bias: bool, *, r: int, config_A_B: str, config_C: str, config_D_E: str
    ):
        super().__init__()
        for part in "AB":
            self.add(part, config_A_B, d_out, (r, d_in))
        if bias:
            self.add("C", config_C, d_in, (r,))
            self.add("D", config_D_E, d_out)
            self.add("E", config_D_E, d_out)

    def add(self, part: str, form: str, d: int, right: tuple[int, ...] = ()) -> None:
        if form == "lora":
            limit = (6 / (right[0] + (right[1] if len(right) > 1 else 1))) ** 0.5     # Xavier uniform, of (r, 1) for C
            self.register_parameter(f"{part}_d", nn.Parameter(torch.zeros(d, right[0])))
            self.register_parameter(f"{part}_u", nn.Parameter(torch.empty(right).uniform_(-limit, limit)))
        elif form != "none":
            self.register_parameter(part, nn.Parameter(torch.zeros(d if form == "vector" else 1)))

    def part(self, name: str) -> Tensor | None:
        """What the part is: (d, d_in), (d,) or (1,), or None where it is missing."""
        own = self._parameters
        if f"{name}_d" in own:
            return cast(Tensor, own[f"{name}_d"]) @ cast(Tensor, own[f"{name}_u"])
        return own.get(name)

    def weight(self, w: Tensor) -> Tensor:
        """W_0 * A + B, (d_out, d_in)."""
        total = torch.zeros_like(w)
        for name, what in (("A", w), ("B", None)):
            if (part := self.part(name)) is not None:
                part = part if part.ndim == 2 else part[:, None]
                total = total + (part if what is None else what * part)
        return total

    def bias(self, w: Tensor, b: Tensor) -> Tensor:
        """b_0 * D + E + W_0 C, (d_out,)."""
        total = torch.zeros_like(b)
        for name, what in (("D", b), ("E", None)):
            if (part := self.part(name)) is not None:
                total = total + (part if what is None else what * part)
        return total if (part := self.part("C")) is None else total + w @ part

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        site = self.site
        w, b = site.weight.detach(), site.bias
        y = y + x @ self.weight(w).T                                # (..., d_in) -> (..., d_out)
        return y if b is None else y + self.bias(w, b.detach())


def apply(
    model: nn.Module, *, r: int = 4, config_A_B: str = "lora", config_C: str = "lora", config_D_E: str = "constant",
    targets: tuple[str, ...] = ("attn.q", "attn.v", "attn.o", "xattn.q", "xattn.v", "xattn.o", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put the parts on every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Parts(
            site.d_in, site.d_out, site.bias is not None,
            r=r, config_A_B=config_A_B, config_C=config_C, config_D_E=config_D_E,
        )
        kit.attach(site, "glora", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold all parts into weights and biases; the bias first, which reads the old weight."""
    for site, child in kit.at_sites(model, "glora", Parts):
        if site.bias is not None:
            site.bias.add_(child.bias(site.weight, site.bias))
        site.weight.add_(child.weight(site.weight))
    kit.detach(model, "glora")
    return model
