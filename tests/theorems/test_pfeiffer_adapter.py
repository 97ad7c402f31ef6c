"""The Pfeiffer adapter reads the normed sum and adds to it before it is normed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import pfeiffer_adapter

pytestmark = pytest.mark.torch


def test_the_norm_is_applied_again_where_it_follows_the_residual() -> None:
    model, plain = pfeiffer_adapter.apply(tiny.model("bert"), bottleneck=3), tiny.model("bert")
    shake(model)
    layer, sums = model.bert.encoder.layer[0], []
    seen: list[Tensor] = []
    plain.bert.encoder.layer[0].output.LayerNorm.register_forward_pre_hook(lambda _, args: sums.append(args[0]))
    layer.register_forward_hook(lambda _, __, y: seen.append(y[0] if isinstance(y, tuple) else y))
    with torch.no_grad():
        tiny.outputs(plain, "bert")
        tiny.outputs(model, "bert")
        norm = plain.bert.encoder.layer[0].output.LayerNorm
        assert torch.allclose(seen[0], norm(sums[0] + layer.pfeiffer_adapter.delta(norm(sums[0]))))
