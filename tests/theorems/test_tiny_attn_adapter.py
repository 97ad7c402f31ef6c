"""Tiny-attention adapter: it sees other positions, no more of them than the model does, and experts become one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import tiny_attn_adapter

pytestmark = pytest.mark.torch


def adapted(family: str, seed: int = 0, implementation: str = "eager") -> nn.Module:
    model = tiny.model(family)
    model.set_attn_implementation(implementation)  # type: ignore[operator]
    torch.manual_seed(seed)
    tiny_attn_adapter.apply(model, d_a=2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    return model


def test_it_computes_what_torchs_attention_module_computes() -> None:
    """The official adapter is nn.MultiheadAttention between two linear maps."""
    torch.manual_seed(0)
    mine = tiny_attn_adapter.TinyAttention(10, d_a=3).double()
    for parameter in mine.parameters():
        parameter.data.normal_()
    theirs = nn.MultiheadAttention(3, 1, batch_first=True).double()
    theirs.load_state_dict({
        "in_proj_weight": mine.U_in, "in_proj_bias": mine.u_in,
        "out_proj.weight": mine.U_out, "out_proj.bias": mine.u_out,
    })  # fmt: skip
    h = torch.randn(2, 5, 10, dtype=torch.float64)
    normed = nn.functional.layer_norm(h, (10,), mine.gain, mine.shift)
    q, k, v = (normed @ mine.W_in.T + mine.b_in).split(3, dim=-1)
    wanted = h + theirs(q, k, v)[0] @ mine.W_out.T + mine.b_out
    assert torch.allclose(mine.add(h, h), wanted)


def changed_positions(model: nn.Module, mask: Tensor | None = None) -> list[bool]:
    """At which positions the first adapter's output changes when the input of position 3 does."""
    (first, *_) = kit.attached(model, "tiny_attn_adapter")
    h = torch.randn(1, 6, first.gain.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = h.clone()
    other[:, 3] *= torch.arange(h.shape[2]) - 5.5
    results = []
    for states in (h, other):
        first.mask = mask
        results.append(first.add(states, states) - states)
    return [not torch.allclose(a, b) for a, b in zip(results[0][0], results[1][0], strict=True)]


def test_every_position_counts_unless_the_mask_hides_it() -> None:
    model = adapted("bert")
    assert changed_positions(model) == [True] * 6
    causal = torch.full((6, 6), -1e30, dtype=torch.float64).triu(1)[None, None]
    assert changed_positions(model, causal) == [False] * 3 + [True] * 3


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_still_cannot_see_the_future(family: str, implementation: str) -> None:
    """Nor where the model's own attention is causal without a mask."""
    model = adapted(family, implementation=implementation)
    ids = torch.arange(3, 10)[None]
    other = torch.cat([ids[:, :4], 30 - ids[:, 4:]], dim=1)
    with torch.no_grad():
        a, b = (model(input_ids=i).logits for i in (ids, other))
    assert torch.allclose(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_padding_is_not_seen() -> None:
    model = adapted("bert", implementation="sdpa")
    ids, mask = torch.randint(3, 37, (1, 8)), torch.tensor([[1] * 5 + [0] * 3])
    with torch.no_grad():
        long = model(input_ids=ids, attention_mask=mask).logits
        short = model(input_ids=ids[:, :5]).logits
    assert torch.allclose(long, short)


def test_generation_with_a_cache_is_refused() -> None:
    model = adapted("llama")
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(torch.arange(3, 7)[None], max_new_tokens=3, do_sample=False, use_cache=True)
    with torch.no_grad():
        model.generate(torch.arange(3, 7)[None], max_new_tokens=3, do_sample=False, use_cache=False)


def test_the_average_of_copies_is_the_copy_and_of_others_is_not_the_mean_output() -> None:
    model = adapted("roberta")
    with torch.no_grad():
        before = tiny.outputs(model, "roberta")
        same = tiny_attn_adapter.average([copy.deepcopy(model) for _ in range(4)])
        assert torch.allclose(tiny.outputs(same, "roberta"), before)
        others = [adapted("roberta", seed) for seed in range(4)]
        mean = torch.stack([tiny.outputs(m, "roberta") for m in others]).mean(0)
        single = tiny.outputs(tiny_attn_adapter.average(others), "roberta")
    assert not torch.allclose(single, mean, atol=1e-2)
