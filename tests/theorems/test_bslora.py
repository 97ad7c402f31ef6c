"""BSLoRA: enlarged factors are Kronecker products of rank r, whatever the weight's size, and the three parts add up."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import bslora

pytestmark = pytest.mark.torch


def test_the_shared_pairs_are_kronecker_products_with_two_vectors() -> None:
    torch.manual_seed(0)
    model = bslora.apply(
        tiny.model("llama"), r_local=1, r_intra=2, r_inter=3, share_size=6, targets=("attn.q", "attn.o")
    )
    shake(model)
    shapes = set()
    for site, child in kit.at_sites(model, "bslora", bslora.BSLoRA):
        own, *shared = child.pairs()
        for name, pair, (a, b) in zip("lm", (child.of_layer, child.of_model), shared, strict=True):
            u, v = child.get_parameter(f"u_{name}"), child.get_parameter(f"v_{name}")
            assert torch.equal(a, torch.kron(u[None], pair.get_parameter(f"A_{name}")))
            assert torch.equal(b, torch.kron(v[:, None], pair.get_parameter(f"B_{name}")))
        assert torch.linalg.matrix_rank(child.delta(), rtol=1e-5) == 1 + 2 + 3
        assert [len(a) for a, _ in (own, *shared)] == [1, 2, 3]
        shapes.add((site.d_out, site.d_in))
    assert len(shapes) == 2, "one pair for weights of two sizes"


def test_layers_have_a_pair_each_and_the_model_one_for_all() -> None:
    model = bslora.apply(tiny.model("llama"), share_size=6, targets=("attn.q", "attn.o"))
    children = [child for _, child in kit.at_sites(model, "bslora", bslora.BSLoRA)]
    assert len(children) == 4
    assert len({id(child.of_layer) for child in children}) == 2
    assert len({id(child.of_model) for child in children}) == 1
