"""LoRAPrune: groups are judged without gradients of the weights, and are really removed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import loraprune

pytestmark = pytest.mark.torch
CUTTABLE = ("llama", "bert", "roberta", "vit")


def outputs(model: nn.Module, family: str) -> Tensor:
    with torch.no_grad():
        return tiny.outputs(model, family)


def child_at(model: nn.Module, role: str, layer: int = 0) -> Any:
    return next(
        child for site, child in kit.at_sites(model, "loraprune", loraprune.Pruned)
        if (site.role, site.layer) == (role, layer)
    )  # fmt: skip


def test_no_gradient_of_a_weight_is_ever_computed() -> None:
    model = loraprune.apply(tiny.model("llama"), r=2, dropout=0.0)
    shake(model)
    tiny.loss(model, "llama").backward()
    loraprune.observe(model)
    assert all(w.value.grad is None for w in kit.weights(model))
    assert child_at(model, "attn.o").importance.shape == (2,)      # heads in two groups of three
    assert child_at(model, "mlp.down").importance.shape == (28,)
    assert child_at(model, "mlp.down").importance.min() > 0


def test_with_a_full_orthogonal_factor_the_estimate_is_the_true_criterion() -> None:
    """A square and orthogonal, B zero, scale one: then g_B A is the gradient of the weight itself."""
    model = loraprune.apply(tiny.model("llama"), r=18, alpha=18.0, dropout=0.0, targets=("attn.q", "mlp.up"))
    for _, child in kit.at_sites(model, "loraprune", loraprune.Pruned):
        if hasattr(child, "A"):
            nn.init.orthogonal_(child.A)
    tiny.loss(model, "llama").backward()
    plain = tiny.model("llama")
    tiny.loss(plain, "llama").backward()
    for role, path in (("attn.q", "self_attn.q_proj"), ("mlp.up", "mlp.up_proj")):
        weight: Any = plain.get_submodule(f"model.layers.0.{path}").weight
        assert torch.allclose(loraprune.sensitivity(child_at(model, role)), (weight.grad * weight).abs(), atol=1e-7)


def test_groups_are_summed_and_averaged_as_a_hand_computation_does() -> None:
    model = loraprune.apply(tiny.model("llama"), r=2, dropout=0.0)
    shake(model)
    for _ in range(2):
        model.zero_grad()
        tiny.loss(model, "llama").backward()
        loraprune.observe(model)
    heads, channels = torch.zeros(2, dtype=torch.float64), torch.zeros(28, dtype=torch.float64)
    widths = {"attn.q": 12, "attn.k": 4, "attn.v": 4, "attn.o": 12, "mlp.up": 1, "mlp.gate": 1, "mlp.down": 1}
    for role, width in widths.items():
        child = child_at(model, role)
        a, b = child.A.detach(), child.B.detach()
        step = child.B.grad @ a + b @ child.A.grad - child.B.grad @ child.A.grad
        entries = (step * (child.site.weight.detach() + 8.0 * b @ a)).abs()       # alpha / r is 16 / 2
        of_group = entries.sum(0 if role in ("attn.o", "mlp.down") else 1).view(-1, width).sum(1)
        (heads if role.startswith("attn") else channels).add_(of_group / of_group.norm())
    for role, wanted in (("attn.o", heads), ("mlp.down", channels)):
        assert torch.allclose(child_at(model, role).importance, (0.1 * 0.9 + 0.1) * wanted)


def test_the_least_important_go_and_stay_away() -> None:
    torch.manual_seed(0)
    model = loraprune.apply(tiny.model("llama"), r=2)
    last = child_at(model, "mlp.down")
    last.importance = torch.rand(28, dtype=torch.float64)
    loraprune.prune(model, 0.25)
    gone = set(last.importance.argsort()[:7].tolist())
    assert set((~last.channels).nonzero()[:, 0].tolist()) == gone
    last.importance = torch.rand(28, dtype=torch.float64)          # opinions change, what is gone stays gone
    loraprune.prune(model, 0.5)
    assert int((~last.channels).sum()) == 14
    assert not last.channels[list(gone)].any()
    assert not hasattr(child_at(model, "mlp.down", layer=1), "channels"), "the last layer is left whole"


def test_the_schedule_is_a_cubic_between_its_ends() -> None:
    shares = [loraprune.schedule(step, total=100, ratio=0.5) for step in range(101)]
    assert shares[:11] == [0.0] * 11
    assert shares[90:] == [0.5] * 11
    assert shares == sorted(shares)
    assert shares[50] == pytest.approx(0.5 * (1 - 0.5**3))


@pytest.mark.parametrize("family", CUTTABLE)
def test_whole_groups_are_removed_and_the_small_model_computes_the_same(family: str) -> None:
    torch.manual_seed(0)
    model = loraprune.apply(tiny.model(family), r=2, dropout=0.0, ratio=0.5)
    shake(model)
    tiny.loss(model, family).backward()
    loraprune.observe(model)
    whole = outputs(model, family)
    loraprune.finish(model)
    masked = outputs(model, family)
    assert not torch.allclose(masked, whole, atol=1e-2)
    merged = loraprune.merge(copy.deepcopy(model))
    small = loraprune.cut(model)
    for candidate in (merged, small):
        assert torch.allclose(outputs(candidate, family), masked, atol=1e-5)

    before, dims = tiny.model(family), kit.blocks(tiny.model(family), "layer")[0].dims
    d, ff, kv = dims["d_model"], dims["d_ff"], dims["n_kv_heads"]
    heads, channels = int(0.5 * kv), int(0.5 * ff)
    biased = family != "llama"
    rows = heads * (dims["d_attn"] + 2 * dims["d_kv"]) // kv
    matrices = (rows + heads * dims["d_attn"] // kv) * d + (2 if biased else 3) * channels * d
    removed = matrices + (rows + channels if biased else 0)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (before, small)]
    assert sizes[0] - sizes[1] == removed
    query = kit.blocks(before, "attention")[0].sites["attn.q"].path
    assert small.get_submodule(query).weight.shape == (dims["d_attn"] * (kv - heads) // kv, d)
    tiny.loss(small.requires_grad_(True), family).backward()        # and it trains


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_heads_that_cannot_be_cut_out_are_refused_and_left_alone(family: str) -> None:
    model = loraprune.apply(tiny.model(family), r=2)
    wanted = outputs(model, family)
    with pytest.raises(ValueError, match="cannot be cut out"):
        loraprune.cut(model)
    assert torch.equal(outputs(model, family), wanted)


def test_pruning_while_training_ends_on_the_ratio() -> None:
    torch.manual_seed(1)
    model = loraprune.apply(tiny.model("llama"), r=2, dropout=0.0, ratio=0.5)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(60):
        optimiser.zero_grad()
        tiny.loss(model, "llama").backward()
        loraprune.observe(model)
        optimiser.step()
        loraprune.prune(model, loraprune.schedule(step, total=60, ratio=0.5))
    assert int(child_at(model, "mlp.down").channels.sum()) == 14
    assert int(child_at(model, "attn.o").heads.sum()) == 1
    assert tiny.loss(model, "llama") < tiny.loss(tiny.model("llama"), "llama")


@pytest.mark.parametrize("family", ["llama", "bert", "roberta"])
def test_removing_what_matters_least_hurts_less_than_removing_what_matters_most(family: str) -> None:
    torch.manual_seed(0)
    model = loraprune.apply(tiny.model(family), r=8, dropout=0.0)
    shake(model)
    tiny.loss(model, family).backward()
    loraprune.observe(model)
    last = child_at(model, "mlp.down")
    before, order = outputs(model, family), last.importance.argsort()
    harm = []
    for gone in (order[: len(order) // 4], order[-(len(order) // 4) :]):
        last.channels.fill_(True)[gone] = False
        harm.append(float((outputs(model, family) - before).norm()))
    assert harm[0] < 0.8 * harm[1]
