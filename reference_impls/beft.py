"""BEFT: bias-efficient fine-tuning (huang2026beft).

    v = W_v x + b_v + b,    b trained, W_v and b_v frozen

Trained: a vector (d_out) that is added to the values of every attention, which is what training b_v does. Where
there is a b_v, the vector is called `b`, `finish` adds it to b_v, and that bias is what is stored; models without
biases keep it beside the weight, as `own`. peft has one vector in both cases.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import _kit as kit


class BEFT(kit.Child):
    """The shift of one weight's output."""

    b: nn.Parameter | None
    own: nn.Parameter | None

    def __init__(self, d_out: int, *, has_bias: bool):
        super().__init__()
        shift = nn.Parameter(torch.zeros(d_out))
        self.b, self.own = (shift, None) if has_bias else (None, shift)

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        return sum((shift for shift in (self.b, self.own) if shift is not None), y)         # (..., d_out)


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("attn.v",)) -> nn.Module:
    """Freeze the model and shift the outputs of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "beft", BEFT(site.d_out, has_bias=site.bias is not None))
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Add the vectors to the biases where there are any."""
    for site, child in kit.at_sites(model, "beft", BEFT):
        if site.bias is not None and child.b is not None:
            site.bias.add_(child.b)
            child.b = None
    return model


def tuned(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The vector that each targeted weight ends up with: its bias, or the one beside it."""
    for site, child in kit.at_sites(model, "beft", BEFT):
        vector = site.bias if child.own is None else child.own
        assert vector is not None
        yield f"{site.path}.{site.role}", vector.detach()


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"]).logits
    return {"output": logits}


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores, after `finish`."""
    return {name: vector.clone() for name, vector in tuned(model)}


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's vectors into a model that the method was applied to, after `finish`."""
    for name, vector in tuned(model):
        vector.copy_(state[name])
    return model
