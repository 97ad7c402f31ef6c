"""LoftQ: codes and factors together come closer to the weights with each turn, and closer than rounding alone."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import loftq, lora, qlora

pytestmark = pytest.mark.torch


class Host(nn.Module):
    """One linear module as a site."""

    def __init__(self, d_out: int, d_in: int):
        super().__init__()
        self.linear = nn.Linear(d_in, d_out, bias=False, dtype=torch.float64)
        nn.init.normal_(self.linear.weight, std=0.3)
        self.requires_grad_(False)


def pair_on(host: nn.Linear, r: int, alpha: float) -> loftq.Pair:
    d_out, d_in = host.weight.shape
    site = kit.Site(
        module=host, path="linear", role="attn.q", stack="", layer=0, d_in=d_in, d_out=d_out, start=0, stop=d_out,
        whole=True, transposed=False,
    )  # fmt: skip
    return site, lora.LoRA(d_in, d_out, r=r, alpha=alpha, dropout=0.0).double()


def by_hand(weight: Tensor, r: int, turns: int) -> list[float]:
    """The errors, computed another way: the nearest of the sixteen points to each weight, block by block."""
    points = qlora.normal_float()
    low, errors = torch.zeros_like(weight), []
    for _ in range(turns):
        blocks = (weight - low).reshape(-1, 64)
        scale = blocks.abs().max(1, keepdim=True).values
        held = points[((blocks / scale)[..., None] - points).abs().argmin(-1)] * scale
        u, s, v = torch.linalg.svd(weight - held.view_as(weight))
        low = u[:, :r] @ torch.diag(s[:r]) @ v[:r]
        errors.append((weight - held.view_as(weight) - low).norm().item())
    return errors


@pytest.mark.parametrize(("r", "alpha"), [(4, 4.0), (4, 16.0), (8, 2.0)])
def test_the_error_falls_with_every_turn_whatever_the_scale(r: int, alpha: float) -> None:
    torch.manual_seed(0)
    host = Host(96, 128).linear
    weight = host.weight.detach().clone()
    site, pair = pair_on(host, r, alpha)
    errors = loftq.alternate(host, [(site, pair)], 5)
    assert all(later < earlier for earlier, later in pairwise(errors)), errors
    assert errors == pytest.approx(by_hand(weight, r, 5), rel=1e-5)
    assert (weight - host.weight - pair.delta()).norm().item() == pytest.approx(errors[-1], rel=1e-6)
    rounded = loftq.NF4(weight)
    assert errors[0] < (weight - rounded(*rounded.right_inverse(weight))).norm()


def test_the_first_fit_is_the_best_of_its_rank() -> None:
    """One turn leaves exactly the singular values behind the first r of what plain rounding leaves out."""
    torch.manual_seed(1)
    host = Host(64, 96).linear
    weight = host.weight.detach().clone()
    rounded = loftq.NF4(weight)
    left = torch.linalg.svdvals(weight - rounded(*rounded.right_inverse(weight)))
    [error] = loftq.alternate(host, [pair_on(host, 5, 5.0)], 1)
    assert error == pytest.approx(left[5:].norm().item(), rel=1e-6)


def test_rounding_what_is_rounded_changes_nothing() -> None:
    torch.manual_seed(2)
    weight = torch.randn(31, 17, dtype=torch.float64)
    quantise = loftq.NF4(weight)
    held = quantise(*quantise.right_inverse(weight))
    assert torch.equal(quantise(*quantise.right_inverse(held)), held)
    assert len({round(v, 9) for v in (held.flatten()[:64] / weight.flatten()[:64].abs().max()).tolist()}) <= 16


def weights(model: nn.Module, name: str) -> list[Tensor]:
    """What each matrix inside the layers amounts to, with its pair if there is one."""
    pairs = {(site.path, site.role): pair.delta().detach() for site, pair in kit.at_sites(model, name, lora.LoRA)}
    return [
        site.weight.detach() + pairs.get((site.path, site.role), torch.zeros(()))
        for site in kit.sites(model, ("attn.*", "mlp.*"))
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_on_a_model_it_starts_closer_than_qlora_and_ends_closer_than_one_turn(family: str) -> None:
    plain = weights(tiny.model(family), "none")

    def distance(model: nn.Module, name: str) -> float:
        gaps = [(w - p).norm() for w, p in zip(weights(model, name), plain, strict=True)]
        return float(torch.stack(gaps).norm())

    once = distance(loftq.apply(tiny.model(family), r=3, iterations=1), "loftq")
    often = distance(loftq.apply(tiny.model(family), r=3, iterations=4), "loftq")
    assert often < once < distance(qlora.apply(tiny.model(family), r=3), "qlora")


def test_the_codes_depend_on_the_factors() -> None:
    """Another rank gives other codes, so the quantised base of one rank is of no use to another."""
    torch.manual_seed(3)
    host = Host(64, 64).linear
    other = copy.deepcopy(host)
    loftq.alternate(host, [pair_on(host, 2, 2.0)], 3)
    loftq.alternate(other, [pair_on(other, 4, 4.0)], 3)
    codes = [state for h in (host, other) for name, state in h.state_dict().items() if name.endswith("original0")]
    assert not torch.equal(codes[0], codes[1])
