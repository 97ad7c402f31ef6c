"""KAdaptation: Kronecker adaptation (he2022kadaptation; code_pevit#vision_benchmark/evaluation/model.py).

    h = W_0 x + s H^T x + b,    H = sum over i of  (P_l,i P_r,i) kron (U_i V_i)

Trained: for every targeted role P_l (n, n, 1) and P_r (n, 1, n), which all layers share; beside every targeted weight U
(n, d_in / n, r) and V (n, r, d_out / n); for every self-attention b (d_attn), which is added to all its targeted
outputs. V and b start at zero, U Xavier-uniform. In the authors' code U starts at zero as well, so only b is trained.
At inference s H^T and b are added to the weight and bias.
"""

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit


class Shared(kit.Child):
    """The small matrices of one role."""

    def __init__(self, n: int):
        super().__init__()
        self.P_l = nn.Parameter(torch.empty(n, n, 1).uniform_(-0.01, 0.01))
        self.P_r = nn.Parameter(torch.empty(n, 1, n).uniform_(-0.01, 0.01))


class Offset(kit.Child):
    """The vector of one attention."""

    def __init__(self, d: int):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(d))


class KAdaptation(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Shared      # not a submodule
    offset: Offset      # not a submodule

    def __init__(
        self, shared: Shared, offset: Offset, d_in: int, d_out: int, *, n: int, r: int, scale: float, dropout: float
    ):
        super().__init__()
        kit.share(self, shared=shared, offset=offset)
        self.U = nn.Parameter(torch.empty(n, d_in // n, r))
        self.V = nn.Parameter(torch.zeros(n, r, d_out // n))
        for matrix in self.U.data:
            nn.init.xavier_uniform_(matrix)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def written(self) -> Tensor:
        """Return H (d_in, d_out)."""
        small, large = self.shared.P_l @ self.shared.P_r, self.U @ self.V       # (n, n, n), (n, d_in / n, d_out / n)
        blocks: Tensor = small.flatten(1).T @ large.flatten(1)                  # (n n, d_in d_out / n n)
        return blocks.view(*small.shape[1:], *large.shape[1:]).transpose(1, 2).flatten(2).flatten(0, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        change: Tensor = x @ self.dropout(self.written())           # (..., d_in) -> (..., d_out)
        return y + self.scale * change + self.offset.b

    def delta(self) -> Tensor:
        return self.scale * self.written().T                                        # (d_out, d_in)


def apply(
    model: nn.Module, *, n: int = 32, r: int = 1, scale: float = 160.0, dropout: float = 0.5,
    targets: tuple[str, ...] = ("attn.q", "attn.v"),
) -> nn.Module:
    """Freeze the model, and put sums of Kronecker products beside every targeted weight.

    Raises UsageError for a module without a bias, of another width than the queries, or that n does not divide.
    """
    kit.freeze(model)
    offsets = {
        (block.stack, block.layer): (block, Offset(block.dims["d_attn"]))
        for block in kit.blocks(model, "attention") if block.name == "attn"
    }  # fmt: skip
    for block, offset in offsets.values():
        kit.attach(block.module, "kadaptation", offset)
    for role, sites in kit.by_role(model, targets).items():
        shared = Shared(n)
        kit.attach(model, f"kadaptation.{role.replace('.', '_')}", shared)
        for site in sites:
            block, offset = offsets[site.stack, site.layer or 0]
            if site.bias is None or site.d_out != len(offset.b) or site.d_in % n or site.d_out % n:
                wanted = f"a bias and {len(offset.b)} outputs, and widths that are multiples of {n}"
                raise UsageError(f"{site.path}: found {site.d_out} by {site.d_in}; expected {wanted}")
            child = KAdaptation(shared, offset, site.d_in, site.d_out, n=n, r=r, scale=scale, dropout=dropout)
            kit.attach(site, "kadaptation", child)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights and biases."""
    for site, child in kit.at_sites(model, "kadaptation", KAdaptation):
        assert site.bias is not None
        site.bias.add_(child.offset.b)
    return kit.fold(model, "kadaptation")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [(site, _)] = kit.at_sites(model, "kadaptation", KAdaptation)
    output: Tensor = site.module(inputs["x"])
    return output
