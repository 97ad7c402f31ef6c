"""MTL-LoRA: low-rank adaptation for multi-task learning (yang2025mtllora;
code_mtl_lora#src/adapter/mlora.py:mLoRALinear).

    h = W_0 x + (alpha / r) sum over i of softmax(w_t / tau)_i B_i Lambda_t A x

All tasks share one map down, A (r, d_in), and `n_up` maps up, B_i (d_out, r). A task t has a small matrix Lambda_t
between them, which turns or only stretches (`matrix`) the r coordinates, and weights w_t (n_up) that say how much of
each map up it uses. Trained: all of them; here for one task, the others' Lambda and w being like it. At inference
nothing is left for one task, as the sum is added to W_0. B starts at zero, Lambda as the identity and w at random.

The adapters library starts w at ones. Then all B_i get the same gradient, stay alike, and w has nothing to choose
from. It has one Lambda and w for a whole fused projection, and its form with a full Lambda cannot be built.
"""

import math

import torch
from torch import Tensor, nn

from . import _kit as kit


class TaskLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in), as one task has it."""

    def __init__(
        self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, n_up: int, matrix: str, sharpness: float
    ):
        super().__init__()
        self.A = nn.Parameter(torch.empty(r, d_in))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(n_up, d_out, r))
        self.Lambda = nn.Parameter(torch.ones(r) if matrix == "singular_values" else torch.eye(r))
        self.w = nn.Parameter(torch.empty(n_up).uniform_(-(n_up**-0.5), n_up**-0.5))    # unequal, or B_i stay alike
        self.scale, self.sharpness = alpha / r, sharpness
        self.dropout = nn.Dropout(dropout)

    def up(self) -> Tensor:
        """What the task makes of the maps up: (d_out, r)."""
        mixed = torch.einsum("i,ior->or", torch.softmax(self.w / self.sharpness, dim=0), self.B)
        return self.scale * (mixed * self.Lambda if self.Lambda.ndim == 1 else mixed @ self.Lambda)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T                    # (..., d_in) -> (..., r)
        return y + low @ self.up().T                                # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.up() @ self.A                                   # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.05, n_up: int = 3,
    matrix: str = "linear", sharpness: float = 0.1,
    targets: tuple[str, ...] = (
        "attn.q", "attn.k", "attn.v", "attn.o", "xattn.q", "xattn.k", "xattn.v", "xattn.o",
    ),
) -> nn.Module:
    """Freeze the model and put a task's correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = TaskLoRA(
            site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, n_up=n_up, matrix=matrix, sharpness=sharpness
        )
        kit.attach(site, "mtl_lora", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "mtl_lora")
