"""DoRA (dynamic rank): a part counts by its share of its own correction, however small that correction is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import dora_dynamic_rank as dynamic

pytestmark = pytest.mark.torch
TARGETS = ("attn.q", "mlp.down")


def made(init_r: int = 4, target_r: int = 2) -> nn.Module:
    torch.manual_seed(0)
    model = dynamic.apply(tiny.model("llama"), init_r=init_r, target_r=target_r, dropout=0.0, targets=TARGETS)
    for child in dynamic.parts(model):
        child.c.data = torch.randn(init_r)
    return model


def scores(model: nn.Module) -> Tensor:
    for child in dynamic.parts(model):
        child.scores = torch.zeros(len(child.c))
    dynamic.observe(model, beta=0.0)
    return torch.stack([child.scores for child in dynamic.parts(model)])


def test_a_score_is_the_norm_of_a_part_over_the_norm_of_the_sum() -> None:
    model = made()
    for child, found in zip(dynamic.parts(model), scores(model), strict=True):
        parts = [c * torch.outer(b, a) for c, b, a in zip(child.c, child.B.T, child.A, strict=True)]
        wanted = torch.stack([part.norm() for part in parts]) / torch.stack(parts).sum(0).norm()
        assert torch.allclose(found, wanted)


def test_scores_do_not_depend_on_the_size_of_a_correction() -> None:
    """So a tiny correction keeps as many parts as a large one. Gradients play no part."""
    model = made()
    before = scores(model)
    first = dynamic.parts(model)[0]
    first.B.data *= 1e-2
    assert torch.allclose(scores(model), before, rtol=1e-4)
    first.A.data[0] *= 10.0
    assert not torch.allclose(scores(model)[0], before[0], rtol=1e-2)
    assert torch.allclose(scores(model)[1:], before[1:], rtol=1e-4)


def test_the_schedule_is_cubic_and_ends_at_the_mean_rank() -> None:
    removed = [dynamic.number(done, parts=120, initial=12, final=8) for done in (0.0, 0.5, 1.0)]
    assert removed == [0, 5, 40]


def test_parts_with_the_lowest_scores_of_the_whole_model_go_and_may_come_back() -> None:
    model = made()
    found = scores(model)
    masks = torch.stack(dynamic.prune(model, 5))
    assert int((~masks).sum()) == 5
    assert found[~masks].max() < found[masks].min()
    assert torch.equal(torch.stack([child.c != 0 for child in dynamic.parts(model)]), masks)
    tiny.loss(model, "llama").backward()
    for child, mask in zip(dynamic.parts(model), masks, strict=True):
        assert child.c.grad is not None
        assert child.c.grad[~mask].all(), "a removed part has a gradient"
    assert int((~torch.stack(dynamic.prune(model, 0))).sum()) == 1, "one part goes even if the schedule wants none"


def test_finish_keeps_the_mean_rank_and_the_function_of_what_stays() -> None:
    model = made()
    dynamic.parts(model)[0].c.data = torch.tensor([1.0, 1e-3, 1e-3, 1e-3])      # nearly of rank one
    scores(model)
    total = sum(len(child.c) for child in dynamic.parts(model))
    dynamic.prune(model, total // 2)
    before = tiny.outputs(model, "llama").detach()
    dynamic.finish(model)
    assert sum(len(child.c) for child in dynamic.parts(model)) == total // 2
    assert len({len(child.c) for child in dynamic.parts(model)}) > 1, "the ranks differ"
    assert torch.allclose(tiny.outputs(model, "llama"), before, atol=1e-6)


def test_the_penalty_is_the_mean_variance_of_the_vectors() -> None:
    model = made()
    for _, child in kit.at_sites(model, "dora_dynamic_rank", dynamic.Parts):
        child.A.data[:] = 1.0
        child.B.data[:] = torch.tensor([1.0, -1.0]).repeat(child.B.shape[0] // 2)[:, None]
    n = [child.B.shape[0] for child in dynamic.parts(model)]
    wanted = sum(size / (size - 1) for size in n) / (2 * len(n))
    assert dynamic.penalty(model).item() == pytest.approx(wanted)
