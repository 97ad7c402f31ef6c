"""TPT: each input gets single vectors of a bank, those nearest to it, and the loss trains only these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import prompt_tuning
from reference_impls import token_wise_prompt_tuning as tpt

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 2]])


def _applied(**more: Any) -> tuple[Any, tpt.Bank]:
    torch.manual_seed(0)
    model = tpt.apply(tiny.model("llama"), **{"prompt_length": 2, "bank_size": 9, "top_k": 3, **more}).eval()
    [child] = kit.attached(model, "token_wise_prompt_tuning")
    assert isinstance(child, tpt.Bank)
    return model, child


def _embedded(ids: Tensor) -> Tensor:
    plain: Any = tiny.plain("llama")
    return plain.get_input_embeddings()(ids).detach()       # type: ignore[no-any-return]


def _nearest(child: tpt.Bank, ids: Tensor) -> list[int]:
    """One input's vectors, found one by one."""
    largest = _embedded(ids).max(dim=0).values
    products = [(float(vector @ largest), number) for number, vector in enumerate(child.B.detach())]
    return sorted(number for _, number in sorted(products, reverse=True)[: child.top_k])


def test_it_is_prompt_tuning_with_a_prompt_of_the_nearest_vectors() -> None:
    model, child = _applied()
    first, second = (_embedded(row).max(dim=0).values for row in IDS)
    middle, apart = first + second, first - second
    apart = apart - middle * (apart @ middle) / (middle @ middle)       # its product has another sign with each input
    bank = 0.01 * torch.randn(9, 18, dtype=torch.float64)
    bank[4], bank[7] = 9 * apart, -9 * apart
    tpt.load(model, bank)
    found = model(input_ids=IDS).logits
    chosen = [_nearest(child, row) for row in IDS]
    assert [4 in numbers for numbers in chosen] == [True, False]
    assert [7 in numbers for numbers in chosen] == [False, True]
    for row, numbers in enumerate(chosen):
        plain: Any = prompt_tuning.apply(tiny.model("llama"), prompt_length=5).eval()
        plain.get_parameter("prompt_tuning.P").data.copy_(torch.cat([child.B[numbers], child.P]))
        assert torch.allclose(found[row], plain(input_ids=IDS[row : row + 1]).logits[0])


def test_the_loss_trains_the_chosen_vectors_alone() -> None:
    model, child = _applied()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert child.B.grad is not None
    reached = set(child.B.grad.abs().sum(dim=1).nonzero().flatten().tolist())
    assert reached == {number for row in IDS for number in _nearest(child, row)}


def test_neither_order_nor_padding_changes_the_choice() -> None:
    _, child = _applied()
    x = _embedded(IDS)
    wanted = child.choose(x, None)
    assert torch.equal(child.choose(x.flip(1), None), wanted)
    padded = torch.cat([x, torch.full((2, 3, 18), 99.0, dtype=torch.float64)], dim=1)
    mask = (torch.arange(7) < 4).long().expand(2, -1)
    assert torch.equal(child.choose(padded, mask), wanted)


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="a model with a vocabulary was expected"):
        tpt.apply(tiny.model("vit"))
