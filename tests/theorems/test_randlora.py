"""RandLoRA: the sum is the sum, of full rank, and fewer numbers at a larger r."""

from __future__ import annotations

import pytest
import torch

import peftonomy
from reference_impls import randlora, vera

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("d_in", "d_out"), [(10, 14), (14, 10)])
def test_the_sum_of_products_of_full_rank(d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    shared = vera.Shared(randlora.random(3, 12), randlora.random(4, 15, 3))
    child = randlora.RandLoRA(d_in, d_out, shared, alpha=6.0)
    for parameter in child.parameters():
        torch.nn.init.normal_(parameter)
    wanted = sum(
        shared.B[j, :14] @ scales.diag() @ shared.A[:, :10] @ child.gamma[j].diag()
        for j, scales in enumerate(child.get_parameter("lambda"))
    )
    assert torch.allclose(child.delta(), 2.0 / 4**0.5 * (wanted if d_in < d_out else wanted.T), atol=1e-4)
    assert torch.linalg.matrix_rank(child.delta()) == 10


def test_a_larger_rank_trains_fewer_numbers() -> None:
    method = peftonomy.load()["randlora"]
    counts = [method.cost("llama_2_7b", r=r).trained for r in (8, 32, 128)]
    assert counts == sorted(counts, reverse=True)
