"""RoAd: 2D rotary adaptation (liao2024road).

    h = R (W_0 x + b),    R on a pair of outputs = [[a11 cos t11, -a12 sin t12], [a21 sin t21, a22 cos t22]]

Trained: angles theta and lengths alpha behind every targeted weight. In `road_1` the four angles of a pair are one,
and the four lengths (d_out / 2 each); in `road_2` those of a row are one (d_out each); in `road_4` none (2 d_out
each). Pairs stand half a group apart. R goes into weight and bias. Starts: theta 0, alpha 1. In `road_4` the cosines'
angles have no gradient there, so that half of theta never moves.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit

SHARED = {"road_1": 4, "road_2": 2, "road_4": 1}                    # coefficients of a pair for each angle


class RoAd(kit.Child):
    """The rotations behind one weight."""

    def __init__(self, d_out: int, *, variant: str, group_size: int):
        super().__init__()
        if d_out % group_size:
            raise ValueError(f"groups of {group_size} do not divide {d_out}")
        self.theta = nn.Parameter(torch.zeros(2 * d_out // SHARED[variant]))
        self.alpha = nn.Parameter(torch.ones(2 * d_out // SHARED[variant]))
        self.variant, self.group = variant, group_size

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """What multiplies each output, and what multiplies its partner: (groups, 2, group / 2) each."""
        shape = -1, 4 // SHARED[self.variant], self.group // 2
        theta, alpha = self.theta.view(shape), self.alpha.view(shape)
        if self.variant == "road_4":
            own, partner = [0, 1], [2, 3]
        else:
            own = partner = [0, 0] if self.variant == "road_1" else [0, 1]
        return alpha[:, own] * theta[:, own].cos(), alpha[:, partner] * theta[:, partner].sin()

    def rotate(self, y: Tensor) -> Tensor:
        own, partner = self.coefficients()
        pairs = y.unflatten(-1, (-1, 2, self.group // 2))           # (..., d_out) -> (..., groups, 2, group / 2)
        swapped = torch.stack([-pairs[..., 1, :], pairs[..., 0, :]], dim=-2)
        rotated: Tensor = (own * pairs + partner * swapped).flatten(-3)
        return rotated                                              # (..., d_out)

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        return self.rotate(y)


def apply(
    model: nn.Module, *, variant: str = "road_1", group_size: int = 64,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model and rotate the outputs of every targeted weight in pairs."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "road", RoAd(site.d_out, variant=variant, group_size=group_size))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Rotate the rows of the weights, and the biases."""
    for site, child in kit.at_sites(model, "road", RoAd):
        site.weight.copy_(child.rotate(site.weight.T).T)
        if site.bias is not None:
            site.bias.copy_(child.rotate(site.bias))
    kit.detach(model, "road")
    return model
