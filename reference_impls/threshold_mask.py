"""Threshold-Mask: masking as an alternative to fine-tuning (zhao2020masking).

    h = (W * M) x + b,    M = 1 where S > tau, else 0;    dL/dS := dL/dM

No weight changes: a task only decides which weights of the layers from `first_layer` on exist for it.
Trained: a score S (d_out, d_in) for every masked weight, through the threshold as if it were not there. Stored: one
bit per masked weight; `finish` rounds the scores to bits. At inference nothing is left: the mask is multiplied into the
weight. Scores start uniform, such that the share `init_sparsity` lies below the threshold.

As in the authors' code biases are not masked and a score equal to the threshold counts as below it. That code also
masks the pooler (here only where it is targeted, for not every checkpoint has one) and can mask the new classifier.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit


class Mask(kit.Child):
    """The mask over one weight."""

    site: kit.Site

    def __init__(self, d_in: int, d_out: int, *, tensor: str, tau: float, low: float, high: float):
        super().__init__()
        self.tensor, self.tau = tensor, tau
        self.register_parameter(tensor, nn.Parameter(torch.empty(d_out, d_in).uniform_(low, high)))

    def mask(self) -> Tensor:
        S: Tensor = getattr(self, self.tensor)
        if S.dtype == torch.bool:
            return S
        return torch.gt(S, self.tau).to(S.dtype) + S - S.detach()          # the value of the bits, the gradient of S

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.site.weight.detach()
        return y + linear(x, weight * self.mask() - weight)         # (..., d_in) -> (..., d_out)


def apply(
    model: nn.Module, *, tau: float = 0.01, init_sparsity: float = 0.05, init_scale: float = 0.02,
    first_layer: int = 2, targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a mask over every targeted weight of the upper layers."""
    kit.freeze(model)
    high = (init_scale + tau) / init_sparsity - init_scale          # so that P(S <= tau) = init_sparsity
    for site in kit.sites(model, targets):
        if site.layer is None or site.layer >= first_layer:
            tensor = "S_pooler" if site.layer is None else "S"
            mask = Mask(site.d_in, site.d_out, tensor=tensor, tau=tau, low=-init_scale, high=high)
            kit.attach(site, "threshold_mask", mask)
    return model


@torch.no_grad()
def finish(model: nn.Module, name: str = "threshold_mask") -> nn.Module:
    """Round the scores to bits for good."""
    for _, child in kit.at_sites(model, name, Mask):
        bits = child.mask() > 0.5
        delattr(child, child.tensor)
        child.register_buffer(child.tensor, bits)
    return model


@torch.no_grad()
def merge(model: nn.Module, name: str = "threshold_mask") -> nn.Module:
    """Set the weights that the task does without to zero."""
    for site, child in kit.at_sites(model, name, Mask):
        site.weight.mul_(child.mask())
    kit.detach(model, name)
    return model
