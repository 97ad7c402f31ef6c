"""TIES-Merging: models that agree are averaged, models that disagree lose. peft trims and elects otherwise."""

from __future__ import annotations

import pytest
import torch
from peft.utils.merge_utils import ties as peft_ties
from torch import Tensor

from reference_impls import ties_merging

pytestmark = pytest.mark.torch


def merge(changes: dict[str, list[list[float]]], keep: float = 1.0, scale: float = 1.0) -> dict[str, list[float]]:
    """The change that ties makes of weights of zeros, from each model's changes of each weight."""
    weights = {name: torch.zeros(len(rows[0]), dtype=torch.float64) for name, rows in changes.items()}
    number = len(next(iter(changes.values())))
    inputs = [{n: torch.tensor(rows[i], dtype=torch.float64) for n, rows in changes.items()} for i in range(number)]
    ties_merging.merge_into(weights, inputs, keep, scale)
    return {name: value.tolist() for name, value in weights.items()}


def test_models_that_agree_are_averaged_and_others_are_left_out() -> None:
    assert merge({"w": [[1.0, -2.0, 3.0, 0.0], [3.0, 4.0, 0.0, 0.0]]}) == {"w": [2.0, 4.0, 3.0, 0.0]}
    assert merge({"w": [[1.0, -2.0]] * 3}, scale=0.5) == {"w": [0.5, -1.0]}     # copies of a model do not add up
    assert merge({"w": [[-1.0], [-1.0], [5.0]]}) == {"w": [5.0]}                # by size, not by number


def test_the_threshold_is_that_of_the_whole_model_and_keeps_one_more() -> None:
    changes = {"small": [[0.1, 0.2]], "large": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]}
    assert merge(changes, keep=0.2) == {"small": [0.0, 0.0], "large": [0.0] * 5 + [6.0, 7.0, 8.0]}


def test_changes_that_cancel_take_the_sign_of_the_majority() -> None:
    assert merge({"w": [[2.0, 1.0, 1.0], [-2.0, 1.0, 1.0]]}) == {"w": [2.0, 1.0, 1.0]}
    assert merge({"w": [[2.0, -1.0, -1.0], [-2.0, -1.0, -1.0]]}) == {"w": [-2.0, -1.0, -1.0]}
    assert merge({"w": [[2.0, -1.0, 1.0], [-2.0, -1.0, 1.0]]}) == {"w": [0.0, -1.0, 1.0]}


def test_peft_differs_where_the_entry_says() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(3, 40, generator=generator, dtype=torch.float64)

    def peft(rows: Tensor, density: float) -> list[float]:
        return peft_ties(list(rows), torch.ones(len(rows), dtype=torch.float64), density).tolist()

    # one tensor, without ties: equal, if peft keeps the one that the authors keep too
    assert merge({"w": draws.tolist()}, keep=0.2)["w"] == pytest.approx(peft(draws, (8 + 1) / 40))
    # two tensors: peft keeps a share of each
    two = torch.cat([draws, draws * 100], 1)
    ours = merge({"a": two[:, :40].tolist(), "b": two[:, 40:].tolist()}, keep=0.2)
    assert not any(ours["a"])
    assert any(peft(two[:, :40], 0.2))
    # exact cancellation: peft elects a positive sign
    rows = torch.tensor([[2.0, -1.0, -1.0], [-2.0, -1.0, -1.0]], dtype=torch.float64)
    assert merge({"w": rows.tolist()})["w"][0] == -2.0
    with pytest.warns(UserWarning, match="density"):
        assert peft(rows, 1.0)[0] == 2.0
