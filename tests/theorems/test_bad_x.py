"""BAD-X: MAD-X with one adapter for two languages, which it reads in turns."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import tiny
from reference_impls import bad_x, mad_x

from ..knowledge import KB

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("k", [1, 3])
def test_it_alternates_batches_of_its_two_languages(k: int) -> None:
    source, target = [f"s{i}" for i in range(3)], [f"t{i}" for i in range(2)]
    found = bad_x.batches(source, target, ratio=k, steps=12)
    assert [batch[0] for batch in found] == (["s"] * k + ["t"]) * (12 // (k + 1))
    of_source = [batch for batch in found if batch[0] == "s"]
    assert of_source == (source * 12)[: len(of_source)]             # each corpus from its start, again and again


def test_it_is_mad_x_whose_language_part_belongs_to_a_pair() -> None:
    ours, theirs = tiny.model("bert"), tiny.model("bert")
    torch.manual_seed(5)
    pair = bad_x.apply(ours, pair_bottleneck=5, task_bottleneck=3, invertible=True, invertible_width=4)
    torch.manual_seed(5)
    language = mad_x.apply(theirs, language_bottleneck=5, task_bottleneck=3, invertible=True, invertible_width=4)
    with torch.no_grad():
        assert torch.equal(tiny.outputs(pair, "bert"), tiny.outputs(language, "bert"))


def test_a_pair_costs_what_a_language_does() -> None:
    """So a transfer stores half as much: one adapter for two languages."""
    pair = KB["bad_x"].cost("xlm_roberta_base", phase="language", pair_bottleneck=384).trained
    language = KB["mad_x"].cost("xlm_roberta_base", phase="language", invertible=False, language_bottleneck=384).trained
    assert pair == language
