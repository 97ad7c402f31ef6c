"""Consolidator: a sparse change of full rank, of which each row reads the channels of one group of the reorder."""

from __future__ import annotations

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import shake
from reference_impls import _kit as kit
from reference_impls import consolidator

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_sparse_change_has_full_rank(shuffle: bool) -> None:
    model = consolidator.apply(tiny.model("vit"), groups=4, shuffle=shuffle)
    shake(model)
    for site, child in kit.at_sites(model, "consolidator", consolidator.Groups):
        change = child.delta()
        wide, high = site.d_in // 4, site.d_out // 4
        assert int((change != 0).sum()) == child.G.numel() == change.numel() // 4
        assert int(torch.linalg.matrix_rank(change)) == min(change.shape), "with as many parameters LoRA has less"
        order = torch.arange(site.d_in).view(4, wide).T.flatten() if shuffle else torch.arange(site.d_in)
        for row in range(site.d_out):
            group = row // high
            read = set(change[row].nonzero().flatten().tolist())
            assert read == set(order[group * wide : (group + 1) * wide].tolist()), "one group of channels"


def test_the_grouped_bias_is_stored_in_the_bias_of_the_module() -> None:
    model = consolidator.apply(tiny.model("vit"), groups=4)
    shake(model)
    [site, *_] = kit.sites(model, ("attn.q",))
    child = site.module.get_submodule("consolidator")
    assert isinstance(child, consolidator.Groups)
    assert child.c is not None
    assert site.bias is not None
    wanted = site.bias + child.c
    consolidator.finish(model)
    assert "consolidator.c" not in dict(site.module.named_parameters())
    assert torch.equal(site.bias, wanted)


def test_sizes_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="expected multiples of groups=5"):
        consolidator.apply(tiny.model("vit"), groups=5)
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        consolidator.apply(tiny.model("bert"), groups=2)
    model = tiny.model("vit")
    [query, *_] = kit.sites(model, ("attn.q",))
    query.module.bias = None  # type: ignore[assignment]
    with pytest.raises(UsageError, match="found no bias"):
        consolidator.apply(model, groups=4)
