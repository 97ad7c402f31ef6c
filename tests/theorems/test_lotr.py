"""LoTR: the corrections of all weights together have low rank along both sides, which those of LoRA have not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import lora, lotr

pytestmark = pytest.mark.torch

TARGETS = ("attn.q", "attn.v")


def _ranks(module: ModuleType, kind: type[Any], name: str) -> tuple[int, int]:
    """Return the ranks of the corrections side by side and on top of each other."""
    torch.manual_seed(0)
    model = module.apply(tiny.model("bert"), r=2, alpha=1.0, targets=TARGETS)
    shake(model)
    deltas = [child.delta() for _, child in kit.at_sites(model, name, kind)]
    assert len(deltas) > 2
    return int(torch.linalg.matrix_rank(torch.cat(deltas, 1))), int(torch.linalg.matrix_rank(torch.cat(deltas, 0)))


def test_all_corrections_share_their_rows_and_columns() -> None:
    assert _ranks(lotr, lotr.LoTR, "lotr") == (2, 2)
    assert min(_ranks(lora, lora.LoRA, "lora")) > 2


def test_at_the_start_only_the_cores_get_a_gradient() -> None:
    model = lotr.apply(tiny.model("bert"), r=2, targets=TARGETS)
    tiny.loss(model, "bert").backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name.rpartition(".")[2] for name in gradients} == {"U", "V", "M"}
    assert {name.rpartition(".")[2] for name, grad in gradients.items() if grad.any()} == {"M"}


def test_weights_of_two_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="found shapes .*; one shape was expected"):
        lotr.apply(tiny.model("bert"), targets=("attn.q", "mlp.up"))
