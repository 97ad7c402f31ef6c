"""NoReFT: LoReFT without orthogonal rows (wu2024reft#appendix-e).

    h <- h + R^T (W h + b - R h)    at the first and the last tokens of the input

As `loreft`, with R (r, d_model) any matrix. Trained and kept at inference: R, W and b for each layer, and for either
end of the input unless `tied`. pyreft may give R h a bias of its own, which the adapters library has not.
"""

import math
from functools import partial

from torch import Tensor, nn

from . import loreft
from .loreft import Intervention, Positions, intervene


class FreeIntervention(Intervention):
    """An intervention whose R is what is trained."""

    def __init__(self, d: int, positions: Positions, *, r: int, tied: bool, dropout: float):
        super().__init__(d, positions, r=r, tied=tied, dropout=dropout)
        for part in self.R:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def directions(self, i: int) -> Tensor:
        rows: Tensor = self.R[i]                                    # (r, d_model)
        return rows


def apply(
    model: nn.Module, *, r: int = 8, prefix_positions: int = 7, suffix_positions: int = 7, tied: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """Freeze the model and put an intervention behind every layer."""
    return intervene(
        model, FreeIntervention, "noreft",
        r=r, prefix_positions=prefix_positions, suffix_positions=suffix_positions, tied=tied, dropout=dropout,
    )  # fmt: skip


probe = partial(loreft.probe, name="noreft")
