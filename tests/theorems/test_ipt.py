"""IPT: every prompt lies in the subspace of a decoder that tasks share, and a task has only the coordinates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import ipt, prompt_tuning

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 2]])


def _applied(**more: Any) -> tuple[Any, ipt.Coordinates]:
    torch.manual_seed(0)
    sizes = {"prompt_length": 2, "intrinsic_dim": 3, "decoder_width": 5}
    model = ipt.apply(tiny.model("t5"), **{**sizes, **more}).eval()
    [child] = kit.attached(model, "ipt")
    assert isinstance(child, ipt.Coordinates)
    return model, child


def _decoder(child: ipt.Coordinates) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(child.get_parameter(name)) for name in ("W_1", "b_1", "W_2", "b_2")}


def test_it_is_prompt_tuning_with_the_decoded_prompt() -> None:
    model, child = _applied()
    decoder = _decoder(child)
    ipt.load(model, decoder)
    p = decoder["W_2"] @ torch.tanh(decoder["W_1"] @ child.z + decoder["b_1"]) + decoder["b_2"]
    plain: Any = prompt_tuning.apply(tiny.model("t5"), prompt_length=2).eval()
    plain.get_parameter("prompt_tuning.P").data.copy_(p.view(2, -1))
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :2]}
    assert torch.allclose(model(**given).logits, plain(**given).logits)


def test_prompts_have_no_more_dimensions_than_coordinates() -> None:
    model, child = _applied()
    ipt.load(model, _decoder(child))

    def prompt(z: Tensor) -> Tensor:
        child.z.data.copy_(z)
        return child.vectors().flatten().detach()

    z, step = child.z.detach().clone(), 1e-5
    ways = torch.stack([(prompt(z + step * way) - prompt(z - step * way)) / (2 * step) for way in torch.eye(3).to(z)])
    assert ways.shape[1] > 3
    assert torch.linalg.matrix_rank(ways, rtol=1e-6) == 3
    far = torch.stack([prompt(10 * torch.randn(3).to(z)) for _ in range(7)])
    assert torch.linalg.matrix_rank(far - far[0], rtol=1e-6) == 5, "the subspace is curved, within the decoder's width"


def test_a_task_trains_and_owns_the_coordinates_alone() -> None:
    model, child = _applied()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["ipt.z"]
    other, _ = _applied()
    for name in ("W_1", "b_1", "W_2", "b_2"):
        assert torch.equal(child.get_parameter(name), other.get_parameter(f"ipt.{name}")), "the decoder is the same"
