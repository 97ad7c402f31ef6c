"""RED: an edit acts on each dimension by itself, and folds into a projection that has a bias."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import red

pytestmark = pytest.mark.torch


def test_with_biases_it_is_a_change_of_projection_and_bias() -> None:
    model, plain = red.apply(tiny.model("bert")), tiny.model("bert")
    shake(model)
    edits = kit.at_sites(model, "red", red.Edit)
    for (_, edit), site in zip(edits, kit.sites(plain, ("mlp.down",)), strict=True):
        assert site.bias is not None
        with torch.no_grad():
            site.weight.mul_(edit.s[:, None])
            site.bias.mul_(edit.s).add_(edit.b)
    assert torch.allclose(tiny.outputs(model, "bert"), tiny.outputs(plain, "bert"))
    with torch.no_grad():
        edit.b[0] += 1.0            # not all alike, which the norm behind the block would remove
    assert not torch.allclose(tiny.outputs(model, "bert"), tiny.outputs(plain, "bert"))
