"""What single methods promise beyond the behaviour suite, each against a computation done another way."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.utils import parametrize

import peftonomy
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import adalora, child_tuning_d, child_tuning_f, ia3, lora, lora_fa, qlora

from .knowledge import KB

pytestmark = pytest.mark.torch


def before_and_after(model: nn.Module, family: str) -> list[tuple[str, Tensor, Tensor]]:
    """One step of gradient descent: (name, old value, new value) of every parameter."""
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.loss(model, family).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    return [(name, old[name], p.detach()) for name, p in model.named_parameters()]


# Child-Tuning.


def test_child_tuning_f_masks_anew_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(200, 300, dtype=torch.float64)
    first, second = (child_tuning_f.masked(gradient, 0.3) for _ in range(2))
    for found in (first, second):
        alive = found != 0
        assert torch.allclose(found[alive], gradient[alive] / 0.3)
        assert abs(alive.double().mean() - 0.3) < 0.01
    assert not torch.equal(first != 0, second != 0)
    mean = torch.stack([child_tuning_f.masked(gradient, 0.3) for _ in range(400)]).mean(0)
    assert (mean - gradient).abs().mean() < 0.08      # standard error of the mean: |g| sqrt(0.7 / 0.3 / 400)


def test_child_tuning_f_moves_the_share_in_a_step() -> None:
    torch.manual_seed(0)
    model = child_tuning_f.apply(tiny.model("llama"), kept=0.25)
    moved = [(new != old).flatten() for name, old, new in before_and_after(model, "llama") if "embed" not in name]
    assert abs(torch.cat(moved).double().mean() - 0.25) < 0.03


def fisher_by_hand(family: str) -> dict[str, Tensor]:
    """Squared gradients of the tiny loss, from `backward` on an untouched model, inside the layers."""
    model = tiny.model(family)
    tiny.loss(model, family).backward()
    inside = {n: p for n, p in model.named_parameters() if ".layer." in n or ".layers." in n}
    for p in inside.values():
        torch.nn.utils.clip_grad_norm_(p, 1.0)
    return {n: p.grad**2 for n, p in inside.items()}  # type: ignore[operator]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_child_tuning_d_moves_exactly_the_entries_of_largest_fisher_information(family: str) -> None:
    model = child_tuning_d.apply(tiny.model(family), kept=0.2)
    child_tuning_d.calibrate(model, (tiny.loss(model, family) for _ in range(2)))
    fisher = fisher_by_hand(family)
    scores = torch.cat([f.flatten() for f in fisher.values()]).sort(descending=True).values
    threshold = scores[int(0.2 * len(scores)) - 1]
    moved = {name: new != old for name, old, new in before_and_after(model, family)}
    for name, values in fisher.items():
        assert torch.equal(moved[name], values >= threshold), name
    assert sum(int(moved[name].sum()) for name in fisher) == int(0.2 * len(scores))


def test_child_tuning_d_averages_over_the_task() -> None:
    """The mean of squares decides, not the square of the mean."""
    model = child_tuning_d.apply(tiny.model("llama"), kept=0.1)
    losses = (sign * tiny.loss(model, "llama") for sign in (1, -1))
    child_tuning_d.calibrate(model, losses)      # in the square of the sum these gradients would cancel
    masks = dict(child_tuning_d._child(model).masks)
    fisher = fisher_by_hand("llama")
    chosen = torch.cat([fisher[n][m] for n, m in masks.items()]).min()
    others = torch.cat([fisher[n][~m] for n, m in masks.items()]).max()
    assert chosen >= others


# QLoRA.

PUBLISHED = (   # dettmers2023qlora#appendix-e, bitsandbytes#bitsandbytes/functional.py:get_4bit_type
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def test_nf4_code_points_are_the_published_ones() -> None:
    assert np.allclose(qlora.normal_float(), PUBLISHED, rtol=0, atol=2e-7)      # printed from float32


def test_nf4_code_points_from_the_quantiles_of_scipy() -> None:
    edge = ((1 - 1 / 30) + (1 - 1 / 32)) / 2
    upper = norm.ppf(np.linspace(edge, 0.5, 9)[:-1])
    lower = norm.ppf(np.linspace(1 - edge, 0.5, 8)[:-1])
    points = np.sort(np.concatenate([lower, [0.0], upper])) / norm.ppf(edge)
    assert np.allclose(qlora.normal_float(), points, rtol=0, atol=1e-12)


def quantised(weight: Tensor) -> tuple[qlora.NF4, tuple[Tensor, ...], Tensor]:
    code = qlora.NF4(weight)
    parts = code.right_inverse(weight)
    return code, parts, code(*parts)


def test_nf4_takes_the_nearest_code_point() -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 64, dtype=torch.float64)
    _, (codes, *_), _ = quantised(weight)
    steps = weight / weight.abs().amax(1, keepdim=True)
    nearest = (steps[..., None] - torch.tensor(PUBLISHED, dtype=torch.float64)).abs().argmin(-1)
    unpacked = torch.stack([codes >> 4, codes & 15], 1).view(10, 64)
    assert torch.equal(unpacked.long(), nearest)


@pytest.mark.parametrize("shape", [(10, 64), (37, 29), (3, 5), (700, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nf4_round_trip_stays_within_half_a_gap(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=dtype)
    _, _, back = quantised(weight)
    assert back.shape == weight.shape
    assert back.dtype == dtype
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scale = flat.abs().amax(1)
    gap = (1 - 0.6961928009986877) / 2
    spread = (scale - scale.mean()).abs().max()
    allowed = gap * scale + spread * 2**-4              # e4m3 keeps three bits after the first: half a step is 2**-4
    error = nn.functional.pad((weight - back).flatten(), (0, -weight.numel() % 64)).view(-1, 64).abs().amax(1)
    assert (error <= allowed + 1e-6).all()
    assert error.max() > 0.1 * gap * scale.max(), "a bound that is never approached proves nothing"


def test_nf4_keeps_zero_and_the_largest_of_a_block() -> None:
    weight = torch.zeros(2, 64)
    weight[0, 3], weight[1, 5] = 2.0, -2.0
    _, _, back = quantised(weight)
    assert torch.equal(back, weight)
    assert torch.equal(quantised(torch.zeros(4, 64))[2], torch.zeros(4, 64))


def test_nf4_holds_4_127_bits_per_weight() -> None:
    weight = torch.randn(1024, 1024)
    _, parts, _ = quantised(weight)
    codes, first, second, mean = parts
    bits = [8 * codes.nbytes, 8 * first.nbytes, 8 * second.nbytes]
    assert sum(bits) / weight.numel() == 4 + 8 / 64 + 32 / (64 * 256) == 4.126953125
    assert mean.nbytes == 4      # once per matrix; the paper's 0.127 leaves it out
    storage = KB["qlora"].entry.base_storage
    declared = [s.count({"numel": weight.numel()}) * s.bits for s in storage.values()]
    assert declared == [*bits, 32]


def test_qlora_holds_nothing_but_the_codes() -> None:
    """What remains in the model for its quantised matrices is what `base_storage` declares, in whole blocks."""
    model = qlora.apply(tiny.model("llama"), r=2)
    storage = KB["qlora"].entry.base_storage
    hosts = [m for m in model.modules() if parametrize.is_parametrized(m)]
    assert len(hosts) == 14
    for host in cast(list[Any], hosts):
        assert "weight" not in dict(host.named_parameters(recurse=False))
        held = sum(p.nbytes for p in host.parametrizations["weight"].parameters())
        padded = {"numel": math.ceil(host.weight.numel() / 64) * 64}
        assert held == sum(s.count(padded) * s.bits for s in storage.values()) // 8


def test_qlora_computes_with_the_dequantised_weights() -> None:
    """The same outputs as LoRA over a model whose matrices were rounded to the code beforehand."""
    ours = qlora.apply(tiny.model("gpt2"), r=3)
    shake(ours)
    rounded = tiny.model("gpt2")
    with torch.no_grad():
        for weight in kit.weights(rounded):
            if weight.kind == "conv1d" and weight.name.endswith(".weight"):
                weight.value.copy_(quantised(weight.value)[2])
    theirs = lora.apply(rounded, r=3, alpha=16.0, targets=("attn.*", "mlp.*"))
    pairs = zip(kit.attached(ours, "qlora"), kit.attached(theirs, "lora"), strict=True)
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())
    assert torch.allclose(tiny.outputs(ours, "gpt2"), tiny.outputs(theirs, "gpt2"), atol=1e-10)
    assert (tiny.outputs(ours, "gpt2") - tiny.outputs(tiny.model("gpt2"), "gpt2")).abs().max() > 0.1


# AdaLoRA.


def test_adalora_budget_is_flat_then_cubic_then_flat() -> None:
    schedule = [adalora.budget(t, initial=96, final=64, total=100, warmup=10, cooldown=30) for t in range(100)]
    assert schedule[:11] == [96] * 11
    assert schedule[70:] == [64] * 30
    assert all(a >= b for a, b in itertools.pairwise(schedule))
    assert schedule[40] == 64 + int(32 * 0.5**3)        # half way down: an eighth of the surplus is left


def trained_adalora() -> nn.Module:
    model = adalora.apply(tiny.model("llama"), init_r=3, target_r=2, alpha=6.0, targets=("attn.*", "mlp.down"))
    shake(model)
    tiny.loss(model, "llama").backward()
    return model


def test_adalora_importance_after_one_step_by_hand() -> None:
    """From zero averages: sensitivity (1 - b1) I and variation (1 - b2) b1 I, with I = |w g|."""
    model = trained_adalora()
    adalora.allocate(model, 30)         # all of them stay
    for child in adalora.triplets(model):
        s = {n: 0.15 * 0.85 * 0.15 * (w * w.grad) ** 2 for n, w in child.named_parameters()}  # type: ignore[operator]
        expected = s["Lambda"] + s["P"].mean(dim=0) + s["Q"].mean(dim=1)
        assert torch.allclose(child.importance(), expected)


@pytest.mark.parametrize("budget", [0, 1, 11, 29, 30])
def test_adalora_keeps_exactly_the_most_important_triplets_of_the_whole_model(budget: int) -> None:
    model = trained_adalora()
    masks = torch.cat(adalora.allocate(model, budget))
    scores = torch.cat([child.importance() for child in adalora.triplets(model)])
    alive = torch.cat([child.Lambda for child in adalora.triplets(model)]) != 0
    assert torch.equal(alive, masks)
    assert int(alive.sum()) == budget
    if 0 < budget < 30:
        assert scores[alive].min() > scores[~alive].max()


def test_adalora_ends_at_its_budget_and_computes_the_same() -> None:
    model = trained_adalora()
    adalora.allocate(model, 20)
    pruned = tiny.outputs(model, "llama")
    adalora.finish(model)                       # ranks as we did, whatever gradients are left
    kept = [len(child.Lambda) for child in adalora.triplets(model)]
    assert sum(kept) == 2 * len(kept) == 20
    assert len(set(kept)) > 1, "the budget went where it was needed, not everywhere alike"
    assert torch.allclose(tiny.outputs(model, "llama"), pruned, atol=1e-6)


def test_adalora_gives_the_budget_to_the_weight_that_needs_it() -> None:
    """The teacher differs from the student in one of four targeted weights, and there most of the triplets survive."""
    teacher = tiny.model("llama")
    torch.manual_seed(0)
    with torch.no_grad():
        weight = teacher.get_parameter("model.layers.1.mlp.down_proj.weight")
        weight.add_(0.5 * torch.randn(18, 2).double() @ torch.randn(2, 28).double())
        wanted = tiny.outputs(teacher, "llama")
    model = adalora.apply(tiny.model("llama"), init_r=3, target_r=1, targets=("attn.v", "mlp.down"))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for step in range(80):
        loss = ((tiny.outputs(model, "llama") - wanted) ** 2).mean()
        optimiser.zero_grad()
        (loss + 0.01 * adalora.penalty(model)).backward()
        optimiser.step()
        adalora.allocate(model, adalora.budget(step, initial=12, final=4, total=80, warmup=20, cooldown=20))
        losses.append(loss.item())
    pairs = kit.at_sites(model, "adalora", adalora.Triplets)
    left = {site.path: int((child.Lambda != 0).sum()) for site, child in pairs}
    assert sum(left.values()) == 4
    assert left["model.layers.1.mlp.down_proj"] == max(left.values()) >= 2
    assert losses[-1] < 0.2 * losses[0]


def test_adalora_keeps_its_choice_in_the_cooldown() -> None:
    model = trained_adalora()
    chosen = torch.cat(adalora.allocate(model, 10))
    for observe in (False, True):
        for weight in itertools.chain(*(child.parameters() for child in adalora.triplets(model))):
            weight.data.fill_(1.0)
            weight.grad = 100 * torch.randn_like(weight)
        assert torch.equal(torch.cat(adalora.allocate(model, 10, observe=observe)), chosen) is not observe


def test_adalora_pruned_triplets_may_come_back() -> None:
    model = trained_adalora()
    masks = torch.cat(adalora.allocate(model, 10))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimiser.zero_grad()
    tiny.loss(model, "llama").backward()
    optimiser.step()
    alive = torch.cat([child.Lambda for child in adalora.triplets(model)]) != 0
    assert alive[~masks].any()


def test_adalora_penalty_is_zero_only_for_orthonormal_vectors() -> None:
    model = adalora.apply(tiny.model("llama"), init_r=3, target_r=2)
    for child in adalora.triplets(model):
        nn.init.orthogonal_(child.P)
        nn.init.orthogonal_(child.Q)
    assert adalora.penalty(model).item() < 1e-20
    with torch.no_grad():
        adalora.triplets(model)[0].P.mul_(2)
    assert math.isclose(adalora.penalty(model).item(), 3 * 9, rel_tol=1e-9)     # three columns of squared length 4


# LoRA, LoRA-FA and IA3.


def kept_for_backward(child: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Shapes of the activations that a correction keeps for its backward pass (weights left out)."""
    shapes: list[tuple[int, ...]] = []
    weights = {p.data_ptr() for p in child.parameters()}

    def remember(saved: Tensor) -> Tensor:
        if saved.data_ptr() not in weights:
            shapes.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda saved: saved):
        child.after(x, torch.zeros(*x.shape[:-1], 7))  # type: ignore[operator]
    return shapes


def test_lora_fa_keeps_r_numbers_of_each_position_where_lora_keeps_the_input() -> None:
    x = torch.randn(5, 11, requires_grad=True)
    plain = kept_for_backward(lora.LoRA(11, 7, r=2, alpha=1, dropout=0.0), x)
    frozen = kept_for_backward(lora_fa.LoRAFA(11, 7, r=2, alpha=1, dropout=0.0), x)
    assert (5, 11) in plain
    assert (5, 2) in plain
    assert (5, 11) not in frozen
    assert (5, 2) in frozen


def test_lora_on_a_fused_projection_leaves_the_other_slices_alone() -> None:
    model, plain = lora.apply(tiny.model("gpt2"), targets=("attn.v",)), tiny.model("gpt2")
    shake(model)
    lora.merge(model)
    after: Any = model.get_submodule("transformer.h.0.attn.c_attn")
    before: Any = plain.get_submodule("transformer.h.0.attn.c_attn")
    assert torch.equal(after.weight[:, :48], before.weight[:, :48])     # queries and keys, 24 columns each
    assert (after.weight[:, 48:] != before.weight[:, 48:]).all()


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_ia3_inside_a_gated_block_is_t_fews_scaling_of_its_linear_half(family: str) -> None:
    ours = ia3.apply(tiny.model(family), targets=("mlp.down",))
    shake(ours)
    theirs = tiny.model(family)
    half = kit.sites(theirs, ("mlp.up",))
    with torch.no_grad():
        for up, (_, child) in zip(half, kit.at_sites(ours, "ia3", ia3.ScaleInput), strict=True):
            up.weight.mul_(child.l_ff[:, None])
    assert torch.allclose(tiny.outputs(ours, family), tiny.outputs(theirs, family), atol=1e-6)


# The kit.


def test_a_copy_of_an_adapted_model_is_independent() -> None:
    model = lora.apply(tiny.model("gpt2"))
    shake(model)
    twin, wanted = copy.deepcopy(model), tiny.outputs(model, "gpt2")
    for child in kit.attached(model, "lora"):
        nn.init.ones_(child.B)  # type: ignore[arg-type]
    assert torch.equal(tiny.outputs(twin, "gpt2"), wanted)
    assert not torch.allclose(tiny.outputs(model, "gpt2"), wanted, atol=1e-3)
    lora.merge(twin)
    assert torch.allclose(tiny.outputs(twin, "gpt2"), wanted, atol=1e-9)


@pytest.mark.parametrize("method", [lora, lora_fa, adalora, ia3, qlora])
def test_what_is_attached_takes_the_dtype_of_its_host(method: Any) -> None:
    model = method.apply(tiny.model("llama").bfloat16())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.bfloat16}
    assert tiny.outputs(model, "llama").dtype == torch.bfloat16


def test_a_method_is_applied_once() -> None:
    model = lora.apply(tiny.model("bert"))
    with pytest.raises(ValueError, match="applied to this model"):
        lora.apply(model)


def test_two_methods_live_side_by_side() -> None:
    model = ia3.apply(lora.apply(tiny.model("bert")))
    kinds = {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert kinds == {"lora", "ia3"}


def test_roles_that_a_model_lacks_are_passed_over_but_not_all_of_them() -> None:
    assert len(kit.sites(tiny.model("bert"), ("attn.q", "xattn.q"))) == 2
    with pytest.raises(peftonomy.UsageError, match="xattn"):
        kit.sites(tiny.model("bert"), ("xattn.q",))


def test_caches_work_as_before() -> None:
    """Generating token by token from a cache equals reading the whole text again each time."""
    model: Any = lora.apply(tiny.model("llama"))
    shake(model)
    ids = torch.tensor([[3, 14, 15, 9, 26]])
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    quick, slow = (model.generate(ids, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(quick, slow)
