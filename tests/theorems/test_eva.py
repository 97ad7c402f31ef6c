"""EVA: the directions and ranks are those of a principal component analysis of the inputs, and peft finds them too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import eva

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]
TARGETS = ("attn.q", "attn.v", "attn.o", "mlp.down")


def calibrated(r: int, rho: float) -> nn.Module:
    model = eva.apply(tiny.model("llama"), r=r, rho=rho, targets=TARGETS)
    return eva.calibrate(model, (tiny.loss(model, "llama") for _ in range(2)))


def inputs(model: nn.Module) -> dict[str, Tensor]:
    """What every targeted module of the plain model reads, positions in rows."""
    seen: dict[str, Tensor] = {}
    for site in kit.sites(model, TARGETS):
        site.module.register_forward_pre_hook(
            lambda _, args, path=site.path: seen.update({path: args[0].flatten(0, -2)})
        )
    with torch.no_grad():
        tiny.outputs(model, "llama")
    return seen


def test_directions_and_ranks_are_the_principal_ones() -> None:
    model, seen = calibrated(3, 2.0), inputs(tiny.model("llama"))
    shares = []
    for site, child in kit.at_sites(model, "eva", eva.EVA):
        x = seen[site.path] - seen[site.path].mean(0)
        _, s, v = torch.linalg.svd(x, full_matrices=False)
        assert torch.allclose((child.A[: child.rank] @ v[: child.rank].T).abs(), torch.eye(child.rank).double())
        assert not child.A[child.rank :].any()
        shares += [(share, child.rank > i) for i, share in enumerate((s**2 / (s**2).sum())[:6].tolist())]
    given = sorted(share for share, used in shares if used)
    assert len(given) == 3 * len(shares) // 6
    assert given[0] >= max(share for share, used in shares if not used) - 1e-12
    assert {child.rank for _, child in kit.at_sites(model, "eva", eva.EVA)} != {3}, "nothing was redistributed"


def test_without_redistribution_ranks_are_equal() -> None:
    assert {child.rank for _, child in kit.at_sites(calibrated(3, 1.0), "eva", eva.EVA)} == {3}


def test_unused_directions_are_never_trained() -> None:
    model = calibrated(3, 2.0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        optimiser.step()
    for _, child in kit.at_sites(model, "eva", eva.EVA):
        assert not child.A[child.rank :].any()
        assert not child.B[:, child.rank :].any()
        assert child.B[:, : child.rank].all()


def test_peft_finds_the_same_ranks_and_directions() -> None:
    class Batches:
        """The same batch, as often as it is asked for."""

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return iter([tiny.batch("llama")])

    model: Any = tiny.model("llama").float()
    modules = ["q_proj", "v_proj", "o_proj", "down_proj"]
    config = peft.LoraConfig(r=3, target_modules=modules, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0))
    found = peft.get_eva_state_dict(
        model, Batches(), config, prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False
    )
    for site, child in kit.at_sites(calibrated(3, 2.0), "eva", eva.EVA):
        theirs = found[site.path].double()
        assert len(theirs) == child.rank
        assert torch.allclose((theirs @ child.A[: child.rank].T).abs(), torch.eye(child.rank).double(), atol=1e-2)
