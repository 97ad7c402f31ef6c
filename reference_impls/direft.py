"""DiReFT: LoReFT without orthogonal rows and without the difference (wu2024reft#section-3.2).

    h <- h + R^T (W h + b)    at the first and the last tokens of the input

LoRA's form applied to hidden states, at a few positions. Trained and kept at inference: R and W (r, d_model) and b
(r) for each layer, and for either end of the input unless `tied`; the paper calls R and W W_2 and W_1. Nothing starts
at zero, as in the paper's code. The class of that name in pyreft keeps the rows of R orthonormal, unlike the
paper's equation; what the equation says is called NodiReFT there.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import linear

from . import loreft
from .loreft import intervene
from .noreft import FreeIntervention


class DirectIntervention(FreeIntervention):
    """An intervention that adds without taking away."""

    def edit(self, h: Tensor, i: int) -> Tensor:
        return h + linear(h, self.W[i], self.b[i]) @ self.directions(i)     # (batch, n, r) -> (batch, n, d_model)


def apply(
    model: nn.Module, *, r: int = 8, prefix_positions: int = 7, suffix_positions: int = 7, tied: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """Freeze the model and put an intervention behind every layer."""
    return intervene(
        model, DirectIntervention, "direft",
        r=r, prefix_positions=prefix_positions, suffix_positions=suffix_positions, tied=tied, dropout=dropout,
    )  # fmt: skip


probe = partial(loreft.probe, name="direft")
