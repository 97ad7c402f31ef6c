"""IR-QLoRA: the shifts raise the entropy of the codes, and averages of the input pass by the factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import peftonomy
from reference_impls import ir_qlora, qlora

pytestmark = pytest.mark.torch

POINTS = qlora.normal_float()


def codes_of(blocks: Tensor, tau: Tensor) -> Tensor:
    shifted = blocks - tau[:, None]
    return (shifted[..., None] / shifted.abs().amax(1)[:, None, None] - POINTS).abs().argmin(-1)


def entropy_of(codes: list[int]) -> float:
    counts = torch.bincount(torch.tensor(codes), minlength=16).double() / len(codes)
    return -sum(float(p * p.log2()) for p in counts if p > 0)


def skewed() -> Tensor:
    """Blocks of weights that are centred away from zero."""
    torch.manual_seed(0)
    return torch.randn(6, 64, dtype=torch.float64) + torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]


def test_each_shift_has_the_highest_entropy_of_all_candidates() -> None:
    blocks, window, n = skewed(), 0.3, 5
    found = ir_qlora.choose(blocks, POINTS, window, n)
    sigma = 1 / 1.8481308  # of the outermost quantile of NF4
    for block, tau in zip(blocks, found, strict=True):
        middle = block.sort().values[31]
        reach = (block - middle).abs().max()
        tried = [middle + window * sigma * (k / n) * reach for k in range(-n, n + 1)]
        scores = [entropy_of(codes_of(block[None], t[None])[0].tolist()) for t in tried]
        own = entropy_of(codes_of(block[None], tau[None])[0].tolist())
        assert own == pytest.approx(max(scores), abs=1e-12)
        assert min(abs(float(tau - t)) for t in tried) < 1e-5 * float(reach)


def test_shifts_keep_more_information_than_codes_around_zero() -> None:
    blocks = skewed()
    tau = ir_qlora.choose(blocks, POINTS, 0.1, 100)
    shifted, plain = (ir_qlora.entropy(codes_of(blocks, t)) for t in (tau, torch.zeros(6, dtype=torch.float64)))
    assert (shifted >= plain).all()
    assert (shifted - plain)[[0, 1, 4, 5]].min() > 0.2, "where the centre is far from zero"
    assert ir_qlora.entropy(torch.arange(64) % 16) == 4, "bits, at most"
    assert ir_qlora.entropy(torch.zeros(64)) == 0


def test_a_window_of_zero_shifts_by_the_median() -> None:
    blocks = skewed()
    assert torch.equal(ir_qlora.choose(blocks, POINTS, 0.0, 3), blocks.median(1).values)


def test_weights_that_are_all_shifted_alike_are_stored_as_well_as_before() -> None:
    """Centred at 3, the codes of QLoRA would waste half of their values."""
    torch.manual_seed(0)
    weight = torch.randn(32, 64, dtype=torch.float64) * 0.5 + 3
    plain, calibrated = qlora.NF4(weight), ir_qlora.Calibrated(weight, window=0.1, tries=10)
    errors = [(store(*store.right_inverse(weight)) - weight).norm() for store in (plain, calibrated)]
    assert errors[1] < errors[0] / 2


def test_the_table_has_the_values_of_a_dynamic_exponent() -> None:
    table = ir_qlora.dynamic_map()
    assert len(table) == len(table.unique()) == 256
    assert table[-1] == 1
    assert 0 in table
    assert torch.allclose(table[:127], -table[128:255].flip(0)), "symmetric, but for the one"
    counts = [int(((table > 10.0**e) & (table < 10.0 ** (e + 1))).sum()) for e in range(-7, 0)]
    assert counts == [1, 2, 4, 8, 16, 32, 64]


def test_without_factors_averages_of_the_input_reach_equal_parts_of_the_output() -> None:
    child = ir_qlora.Elastic(12, 6, r=3, alpha=6.0, dropout=0.5).double()
    with torch.no_grad():
        child.A.zero_()
        child.beta_1.fill_(0.5)
        child.beta_2.fill_(4.0)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    parts = torch.stack([x[..., 0:4].mean(-1), x[..., 4:8].mean(-1), x[..., 8:12].mean(-1)], -1)
    wanted = 2.0 * 0.5 * 4.0 * parts.repeat_interleave(2, -1)
    found = child.after(x, torch.zeros(2, 5, 6, dtype=torch.float64))
    assert torch.allclose(found, wanted, rtol=1e-13), "dropout does not act on the averages"


def test_a_rank_that_does_not_divide_the_widths_is_refused() -> None:
    from peftonomy.conformance import tiny

    with pytest.raises(ValueError, match="r = 5 must divide the 18 inputs"):
        ir_qlora.apply(tiny.model("llama"), r=5)


def test_shifts_cost_an_eighth_of_a_bit_more_than_qlora() -> None:
    kb = peftonomy.load()
    inside = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    more = kb["ir_qlora"].cost("llama_7b").base_bytes - kb["qlora"].cost("llama_7b").base_bytes
    assert more == inside // 64 + inside // 64 // 256 * 4
    assert kb["ir_qlora"].cost("llama_7b").trained == kb["qlora"].cost("llama_7b").trained + 2 * 7 * 32
