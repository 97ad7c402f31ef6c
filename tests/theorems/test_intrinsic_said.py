"""Intrinsic SAID: all weights move in one random subspace, which a seed gives back."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import intrinsic_said

pytestmark = pytest.mark.torch


def test_the_transform_is_the_product_of_its_five_matrices() -> None:
    size, n, seed = 11, 16, 5
    v = torch.randn(7, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n,), generator=generator).double() * 2 - 1
    permutation = torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)]
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    h = torch.tensor(hadamard(n), dtype=torch.float64)
    full = h @ normal.diag() @ permutation @ h @ signs.diag()
    wanted = full[:size, :7] @ v / (size**0.5 * normal.norm())
    assert torch.allclose(intrinsic_said.fastfood(v, size, seed), wanted)


@pytest.mark.parametrize(("d", "size"), [(16, 16), (10, 100), (30, 700)])
def test_the_projection_keeps_the_norm_on_average(d: int, size: int) -> None:
    torch.manual_seed(0)
    v = torch.randn(d, dtype=torch.float64)
    squares = torch.stack([intrinsic_said.fastfood(v, size, seed).square().sum() for seed in range(600)])
    error = squares.std() / 600**0.5
    assert abs(squares.mean() - v.square().sum()) < 4 * error
    assert error < 0.1 * v.square().sum(), "a mean that is not known proves nothing"


def change(family: str, d: int, seed: int, start: int) -> Tensor:
    """The difference to all pretrained weights after v was set at random, flattened."""
    model = tiny.model(family)
    torch.manual_seed(start)
    intrinsic_said.apply(model, d=d)
    space = model.get_submodule("intrinsic_said")
    torch.manual_seed(seed)
    nn.init.normal_(space.get_parameter("v"))
    merged = dict(intrinsic_said.merge(model).named_parameters())
    return torch.cat([(merged[n] - p).detach().flatten() for n, p in tiny.model(family).named_parameters()])


def test_all_weights_move_in_a_subspace_of_the_dimension_of_v() -> None:
    changes = torch.stack([change("llama", d=8, seed=seed, start=0) for seed in range(12)])
    assert torch.linalg.matrix_rank(changes) == 8 - 2 - 1
    other = change("llama", d=8, seed=0, start=1)           # another seed is another subspace
    assert torch.linalg.matrix_rank(torch.cat([changes, other[None]])) == 8 - 2


def test_a_scale_moves_its_own_layer_only() -> None:
    model = intrinsic_said.apply(tiny.model("t5"), d=9)
    nn.init.normal_(model.get_submodule("intrinsic_said").get_parameter("v"))
    before = {name: value.clone() for name, value in values(model).items()}
    with torch.no_grad():
        model.get_submodule("decoder.block.1.intrinsic_said").get_parameter("scale").fill_(3.0)
    pretrained = dict(tiny.model("t5").named_parameters())
    for name, value in values(model).items():
        factor = 3.0 if name.startswith("decoder.block.1.") else 1.0
        assert torch.allclose(value - pretrained[name], factor * (before[name] - pretrained[name])), name


def values(model: nn.Module) -> dict[str, Tensor]:
    """The weights as the model reads them."""
    return {
        name: getattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]).detach()
        for name, _ in tiny.model("t5").named_parameters()
    }


def test_tied_weights_stay_tied() -> None:
    model = intrinsic_said.apply(tiny.model("gpt2"), d=5)
    nn.init.normal_(model.get_submodule("intrinsic_said").get_parameter("v"))
    embedding, head = model.get_submodule("transformer.wte"), model.get_submodule("lm_head")
    assert not torch.equal(embedding.weight, tiny.model("gpt2").get_parameter("transformer.wte.weight"))
    assert torch.equal(embedding.weight, head.weight)
    intrinsic_said.merge(model)
    assert embedding.weight is head.weight


def test_counts_what_the_code_of_the_authors_counts() -> None:
    for family in ("bert", "t5"):
        model = intrinsic_said.apply(tiny.model(family), d=50)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 50
        assert len(kit.attached(model, "intrinsic_said")) == len(kit.blocks(tiny.model(family), "layer")) + 1
