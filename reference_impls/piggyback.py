"""Piggyback: learning to mask the weights of a fixed network (mallya2018piggyback; code_piggyback).

    h = (W * M) x + b,    M = 1 where S > tau, else 0;    dL/dS := dL/dM

No weight changes. Trained: a score S (d_out, d_in) for every targeted weight, all equal to `scale` at first, through
the threshold as if it were not there. Stored: one bit per weight; `finish` rounds the scores to bits. At inference
nothing is left: the mask is multiplied into the weight. Biases and norms stay as they are.
"""

from torch import nn

from . import _kit as kit
from . import threshold_mask


class Mask(threshold_mask.Mask):
    """The mask over one weight, with nothing off at first."""

    def __init__(self, d_in: int, d_out: int, *, tau: float, scale: float):
        super().__init__(d_in, d_out, tensor="S", tau=tau, low=scale, high=scale)
        if scale <= tau:
            raise ValueError(f"a start of the scores above the threshold {tau} was expected; found {scale}")


def apply(
    model: nn.Module, *, tau: float = 5e-3, scale: float = 1e-2,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a mask over every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "piggyback", Mask(site.d_in, site.d_out, tau=tau, scale=scale))
    return model


def finish(model: nn.Module) -> nn.Module:
    """Round the scores to bits for good."""
    return threshold_mask.finish(model, "piggyback")


def merge(model: nn.Module) -> nn.Module:
    """Set the weights that the task does without to zero."""
    return threshold_mask.merge(model, "piggyback")
