"""S-Prompts: an image gets the prompt of the domain with the nearest mean, and training changes one domain alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import s_prompts, vpt

pytestmark = pytest.mark.torch
SIZES = {"prompt_length": 2, "tasks": 3, "centres": 2}


def _images(seed: int, n: int = 4) -> Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _applied(**more: Any) -> tuple[Any, s_prompts.Domains]:
    torch.manual_seed(0)
    model = s_prompts.apply(tiny.model("vit"), **{**SIZES, **more}).eval()
    [child] = kit.attached(model, "s_prompts")
    assert isinstance(child, s_prompts.Domains)
    return model, child


def _state(x: Tensor) -> Tensor:
    """The plain model's last state of the class token, of length one."""
    plain: Any = tiny.plain("vit")
    with torch.no_grad():
        h: Tensor = plain.base_model(pixel_values=x).last_hidden_state[:, 0]
    return h / h.norm(dim=-1, keepdim=True)


def _prompted(p: Tensor, x: Tensor) -> Tensor:
    plain: Any = vpt.apply(tiny.model("vit"), prompt_length=len(p)).eval()
    plain.get_parameter("vpt.P").data.copy_(p)
    return plain(pixel_values=x).logits             # type: ignore[no-any-return]


def test_an_image_gets_the_prompt_of_its_domain() -> None:
    model, child = _applied()
    groups = [_images(seed, 2) for seed in (1, 2, 3)]
    prompts = [torch.randn(2, 12, dtype=torch.float64) for _ in range(2)]
    s_prompts.load(model, [(prompts[0], _state(groups[0])), (prompts[1], _state(groups[1]))])
    child.K.data.copy_(_state(groups[2]))
    every = [*prompts, child.P]
    mixed = torch.stack([groups[1][0], groups[2][1], groups[0][1]])
    found = model(pixel_values=mixed).logits
    for row, domain in enumerate((1, 2, 0)):
        assert torch.allclose(found[row], _prompted(every[domain], mixed[row : row + 1])[0])


def test_training_uses_and_changes_this_domain_alone() -> None:
    model, child = _applied()
    x = _images(1)
    child.K.data.fill_(9.0)             # as far as can be
    served = model(pixel_values=x).logits
    model.train()
    assert torch.allclose(model(pixel_values=x).logits, _prompted(child.P, x))
    assert not torch.allclose(served, _prompted(child.P, x)), "at inference another domain is nearer"
    assert [name for name, p in child.named_parameters() if p.requires_grad] == ["P"]


def test_calibration_finds_means_of_the_plain_states() -> None:
    model, child = _applied()
    batches = [_images(1), _images(2)]
    child.P.data.normal_()

    def losses() -> Any:
        for x in batches:
            yield model(pixel_values=x, labels=torch.zeros(4, dtype=torch.long)).loss

    s_prompts.calibrate(model, losses())
    states = _state(torch.cat(batches))
    nearest = torch.cdist(states, child.K).argmin(dim=1)
    for k in range(2):
        assert torch.allclose(child.K[k], states[nearest == k].mean(dim=0)), "each is the mean of what is nearest to it"
    assert (child.choose(states) == 2).all(), "and its images choose this domain"


def test_means_of_apart_groups_are_theirs() -> None:
    torch.manual_seed(0)
    middles = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    x = (middles[:, None] + 0.1 * torch.randn(3, 5, 2)).flatten(0, 1)[torch.randperm(15)]
    found = s_prompts.means(x, 3)
    assert torch.cdist(middles, found).amin(dim=1).max() < 0.2
    assert torch.equal(s_prompts.means(x[:1], 2), x[:1].expand(2, -1)), "one image is each of its means"


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_other_models_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        s_prompts.apply(tiny.model(kind))
