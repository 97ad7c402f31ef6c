"""SMoP: an input uses the prompt of its largest score alone, the task trains the router, and noise acts in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import smop

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 0], [2, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])


def _applied(**more: Any) -> tuple[nn.Module, smop.Prompts]:
    torch.manual_seed(0)
    model = smop.apply(tiny.model("bert"), **{"prompt_length": 2, "n_prompts": 5, **more})
    [child] = kit.attached(model, "smop")
    assert isinstance(child, smop.Prompts)
    return model.eval(), child


def _embedded(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    return model.get_input_embeddings()(ids)            # type: ignore[operator, no-any-return]


def test_prompts_of_smaller_scores_have_no_effect_and_no_gradient() -> None:
    model, child = _applied()
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    logits.square().sum().backward()
    a = child.probabilities(_embedded(model), MASK)[:, 0]
    used = torch.zeros(5, dtype=torch.bool).index_fill(0, a.argmax(-1), True)
    assert 1 < int(used.sum()) < 5, "inputs differ in their choices"
    assert child.P.grad is not None and child.W.grad is not None    # noqa: PT018
    assert child.P.grad.flatten(1).any(1).equal(used)
    assert child.W.grad.flatten(1).any(1).all(), "the softmax reaches every score"
    for i, row in enumerate(child.vectors(_embedded(model), MASK)):
        assert torch.allclose(row, a[i].max() * child.P[a[i].argmax()]), "each input has its own"

    child.P.data[~used] = 9.0
    assert torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, logits)
    alone = model(input_ids=IDS[2:, :2], attention_mask=MASK[2:, :2]).logits
    assert torch.allclose(alone, logits[2:]), "padding and the rest of the batch do not count"


def test_all_prompts_make_a_plain_mixture() -> None:
    model, child = _applied(top_k=5)
    a = child.probabilities(_embedded(model), None)[:, 0]
    assert torch.allclose(child.vectors(_embedded(model), None), torch.einsum("bn,nld->bld", a, child.P))


def test_noise_is_relative_to_the_score_and_acts_in_training_only() -> None:
    model, child = _applied(noise=0.5)
    x = _embedded(model, IDS[:1])
    quiet = child.probabilities(x, None)
    assert torch.equal(child.probabilities(x, None), quiet)
    z = quiet.log() - quiet.log().logsumexp(-1, keepdim=True)
    scores = torch.nn.functional.linear(x.mean(1, keepdim=True), child.W)
    assert torch.allclose(z - z.mean(), scores - scores.mean())
    child.train()
    with torch.no_grad():
        many = child.probabilities(x.expand(20000, -1, -1), None)[:, 0].log()
    apart = many[:, 0] - many[:, 1]
    wanted = 0.5 * scores[0, 0, :2].norm()
    assert abs(apart.std() / wanted - 1) < 0.05
    assert abs(apart.mean() - (scores[0, 0, 0] - scores[0, 0, 1])) < 0.05 * wanted
    child.noise = 0.0
    assert torch.equal(child.probabilities(x, None), quiet)
