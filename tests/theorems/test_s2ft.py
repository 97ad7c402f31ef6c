"""S2FT: the trained columns belong to whole heads and channels."""

from __future__ import annotations

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import s2ft

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_change_is_dense_on_whole_units_and_zero_elsewhere(family: str) -> None:
    model = s2ft.apply(tiny.model(family), o_ratio=0.5, d_ratio=0.25)
    shake(model)
    sizes = {"attn.o": kit.blocks(model, "attention")[0].dims["head_dim"], "mlp.down": 1}
    for site, child in kit.at_sites(model, "s2ft", s2ft.Units):
        columns, _ = child.both
        units = columns.reshape(-1, sizes[site.role])
        assert torch.equal(units, units[:, :1] + torch.arange(sizes[site.role])), "whole units"
        assert (units[:, 0] % sizes[site.role] == 0).all()
        others = torch.ones(site.d_in, dtype=torch.bool).index_fill(0, columns, False)
        change = child.delta()
        assert (change[:, others] == 0).all()
        assert (change[:, columns] != 0).all()


@pytest.mark.parametrize(("ratio", "units"), [(0.052, 32), (0.02, 11008), (0.3, 4), (1.0, 7)])
def test_numbers_of_layers_add_up_to_the_share_of_all(ratio: float, units: int) -> None:
    numbers = [s2ft.number(ratio, layer, units) for layer in range(32)]
    assert sum(numbers) == int(units * 32 * ratio)
    assert max(numbers) - min(numbers) <= 1


def test_a_share_that_selects_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="select nothing"):
        s2ft.apply(tiny.model("llama"), o_ratio=0.0, d_ratio=0.0)
