"""FacT: all squares of all matrices change within the same few directions, and the Tucker form mixes a few changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import fact

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")


def _squares(model: nn.Module) -> Tensor:
    """Return the changes of all squares, (number, d_model, d_model)."""
    found: list[Tensor] = []
    for _, child in kit.at_sites(model, "fact", fact.Factor):
        for rows in child.delta().split(12):
            found += rows.split(12, dim=1)
    return torch.stack(found).detach()


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_all_squares_share_their_directions(form: str) -> None:
    model = fact.apply(tiny.model("vit"), r=3, scale=0.5, dropout=0.0, form=form)
    shake(model)
    squares = _squares(model)
    assert len(squares) == 2 * 8                                     # two in each feed-forward matrix
    rank = torch.linalg.matrix_rank
    assert rank(torch.cat([*squares])) == rank(torch.cat([*squares], dim=1)) == 3
    # The Tucker form mixes r matrices for the attentions; the tensor train has one for each of the eight matrices.
    attention = fact.apply(tiny.model("vit"), r=3, form=form, targets=TARGETS[:4])
    shake(attention)
    assert rank(_squares(attention).flatten(1)) == {"tt": 8, "tk": 3}[form]


def test_matrices_that_are_no_squares_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        fact.apply(tiny.model("bert"))
    odd = tiny.built("ViTModel", {**tiny.CONFIGS["vit"][1], "intermediate_size": 20})
    with pytest.raises(UsageError, match="found 20 by 12; expected multiples of 12"):
        fact.apply(odd)
