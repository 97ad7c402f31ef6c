"""FacT: factor-tuning (jie2023fact; code_petl_vit#FacT/fact_tt.py:set_FacT, code_petl_vit#FacT/fact_tk.py:set_FacT).

    W <- W_0 + s V S U        for every square W (d_model, d_model) of a weight matrix

The rows and columns of S (r m_out, r m_in) are those of all squares of the matrix. A matrix with d_ff outputs has
m_out = d_ff / d_model squares. In the tensor train (tt) each S is trained. In the Tucker form (tk) it is computed:
S = C P_i, with the columns P_i of the matrix, read in the order of fact_tk.py:fact_forward_mlp.

Trained: U (r, d_model) and V (d_model, r), which all squares share; tt: S for each matrix; tk: C (r, r, r) and P
(r, number of squares). V starts at zero, so the model starts unchanged. At inference nothing is left: the change
merges.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from peftonomy import UsageError

from . import _kit as kit
from ._image import require_one_width


class Factors(kit.Child):
    """The tensors that all matrices share."""

    C: nn.Parameter
    P: nn.Parameter

    def __init__(self, d: int, *, r: int, columns: int):
        super().__init__()
        bound = 1 / math.sqrt(d)
        self.U = nn.Parameter(torch.empty(r, d).uniform_(-bound, bound))
        self.V = nn.Parameter(torch.zeros(d, r))
        if columns:
            self.C = nn.Parameter(nn.init.xavier_uniform_(torch.empty(r, r, r)))
            self.P = nn.Parameter(nn.init.xavier_uniform_(torch.empty(r, columns)))


class Factor(kit.Child):
    """The change of one matrix. columns: those of P that belong to it; None in the tensor train."""

    site: kit.Site
    shared: Factors     # not a submodule

    def __init__(
        self, site: kit.Site, d: int, shared: Factors, *, scale: float, dropout: float, columns: slice | None
    ):
        super().__init__()
        kit.share(self, shared=shared)
        self.squares_in, self.squares_out = site.d_in // d, site.d_out // d
        self.columns, self.scale, r = columns, scale, len(shared.U)
        if columns is None:
            bound = 1 / math.sqrt(r * self.squares_in)
            shape = r * self.squares_out, r * self.squares_in
            self.S = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def mixed(self) -> Tensor:
        """Return S transposed, of the Tucker form."""
        mixture = (self.shared.C @ self.shared.P[:, self.columns]).flatten(1)       # (r, r m)
        return mixture if self.squares_in == 1 else mixture.T

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        z = linear(x.unflatten(-1, (self.squares_in, -1)), self.shared.U).flatten(-2)       # (..., r m_in)
        z = linear(z, self.S) if self.columns is None else z @ self.mixed()                 # (..., r m_out)
        z = self.dropout(z).unflatten(-1, (self.squares_out, -1))
        return y + self.scale * linear(z, self.shared.V).flatten(-2)                        # (..., d_out)

    def delta(self) -> Tensor:
        small = self.S if self.columns is None else self.mixed().T
        wide = torch.kron(torch.eye(self.squares_out).to(small), self.shared.V)     # (d_out, r m_out)
        return self.scale * wide @ small @ torch.kron(torch.eye(self.squares_in).to(small), self.shared.U)


def apply(
    model: nn.Module, *, r: int = 8, scale: float = 1.0, dropout: float = 0.1, form: str = "tt",
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"),
) -> nn.Module:  # fmt: skip
    """Freeze the model and change its matrices by products of shared factors.

    Raises UsageError for a model of text, and where a matrix does not consist of squares.
    """
    require_one_width(model)
    kit.freeze(model)
    d = kit.inventory(model).dims["d_model"]
    sites = sorted(kit.sites(model, targets), key=lambda site: cast(int, site.layer))       # stable: layer by layer
    for site in sites:
        if site.d_in % d or site.d_out % d:
            raise UsageError(f"{site.path}: found {site.d_out} by {site.d_in}; expected multiples of {d}")
    squares = [site.d_in // d * (site.d_out // d) for site in sites]
    shared = Factors(d, r=r, columns=sum(squares) if form == "tk" else 0)
    kit.attach(model, "fact", shared)
    for number, site in enumerate(sites):
        start = sum(squares[:number])
        columns = slice(start, start + squares[number]) if form == "tk" else None
        kit.attach(site, "fact", Factor(site, d, shared, scale=scale, dropout=dropout, columns=columns))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the changes to the weights."""
    return kit.fold(model, "fact")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states
