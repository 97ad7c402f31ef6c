"""MixPHM: copies of an up-projection that start alike, are drawn in training, and are averaged factor by factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import mixphm

pytestmark = pytest.mark.torch


def mixture(*, dropout: float = 0.0, shaken: bool = True) -> mixphm.Mixture:
    torch.manual_seed(0)
    child = mixphm.Mixture(
        6, mixphm.Shared(2), bottleneck=4, n=2, phm_rank=1, n_experts=3, dropout=dropout
    ).double()  # fmt: skip
    child.shared.double()
    if shaken:
        shake(child)
        child.shared.A.data.normal_()
    return child


def ups(child: mixphm.Mixture) -> list[tuple[Tensor, Tensor]]:
    """Return the matrix (bottleneck, d_model) and bias of each copy."""
    found = zip(child.copies("S"), child.copies("T"), child.copies("c"), strict=True)
    return [(child.weight(s, t), c) for s, t, c in found]


def states() -> Tensor:
    return torch.randn(5, 6, dtype=torch.float64)


def test_a_matrix_is_a_sum_of_kronecker_products_with_shared_first_factors() -> None:
    child = mixture()
    terms = [torch.kron(a, s @ t) for a, s, t in zip(child.shared.A, child.s_down, child.t_down, strict=True)]
    assert torch.allclose(child.weight(child.s_down, child.t_down), torch.stack(terms).sum(dim=0))


def test_the_copies_of_a_layer_start_alike_and_training_draws_one_of_them() -> None:
    same, h = mixture(shaken=False), states()
    for copies in ("S", "T", "c"):
        assert all(torch.equal(c, same.copies(copies)[0]) for c in same.copies(copies))
    child = mixture().train()
    z = child.narrowed(h)
    wanted = [z @ w + c for w, c in ups(child)]
    seen = {i for _ in range(60) for i, y in enumerate(wanted) if torch.allclose(child.change(h), y)}
    assert seen == {0, 1, 2}


def test_each_batch_moves_one_copy() -> None:
    child = mixture().train()
    child.change(states()).square().sum().backward()
    assert sorted(bool(t.grad.any()) for t in child.T if t.grad is not None) == [False, False, True]
    assert child.s_down.grad is not None
    assert child.s_down.grad.any()


def test_the_mean_of_factors_is_not_the_mean_of_matrices() -> None:
    """It is if the copies differ in one factor only."""
    child, h = mixture().eval(), states()
    z = child.narrowed(h)
    mean = torch.stack([z @ w + c for w, c in ups(child)]).mean(dim=0)
    assert not torch.allclose(child.change(h), mean, atol=1e-3)
    for s in child.S[1:]:
        s.data.copy_(child.S[0])
    mean = torch.stack([z @ w + c for w, c in ups(child)]).mean(dim=0)
    assert torch.allclose(child.change(h), mean)


def test_finishing_keeps_what_inference_computes_with_one_adapter() -> None:
    model = tiny.model("t5")
    torch.manual_seed(0)
    mixphm.apply(model, bottleneck=4, n=2, phm_rank=2, n_experts=3)
    shake(model)
    model.eval()
    with torch.no_grad():
        before = tiny.outputs(model, "t5")
        mixphm.finish(model)
        assert torch.allclose(tiny.outputs(model, "t5"), before)
        model.train()
    one = [child for child in kit.attached(model, "mixphm") if isinstance(child, mixphm.Mixture)]
    assert all(not hasattr(child, "S") for child in one)
    assert len({id(child.shared) for child in one}) == 1
    assert len(one) > 1


def test_dropout_acts_on_the_narrow_states_of_a_training_step() -> None:
    child, h = mixture(dropout=0.5), states()
    assert not torch.allclose(child.train().narrowed(h), child.narrowed(h))
    assert torch.allclose(child.eval().narrowed(h), child.narrowed(h))


def test_redundancy_is_what_other_features_of_the_input_repeat_and_padding_does_not_count() -> None:
    h = torch.eye(4, dtype=torch.float64)[None]
    mask = torch.ones(1, 4, dtype=torch.int64)
    assert mixphm.redundancy(h, h, mask) == 0
    assert torch.allclose(mixphm.redundancy(h.roll(1, dims=2), h, mask, 1.0), torch.tensor(4.0, dtype=torch.float64))
    padded = torch.cat([h, torch.ones_like(h)], dim=1)
    longer = torch.tensor([[1] * 4 + [0] * 4])
    assert mixphm.redundancy(padded, padded, longer) == 0


def test_relevance_falls_if_an_output_tells_more_about_its_own_text() -> None:
    state = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    own = state[:, None].expand(2, 3, 2)
    losses = [mixphm.relevance(k * own, state, mask) for k in (-1, 0, 1, 2)]
    assert losses == sorted(losses, reverse=True)
    assert mixphm.relevance(own, state, mask) < mixphm.relevance(own.flip(0), state, mask)


def test_n_must_divide_both_widths() -> None:
    model: nn.Module = tiny.model("bert")
    with pytest.raises(UsageError, match="must divide both widths"):
        mixphm.apply(model, bottleneck=5, n=2)
