"""IDPG: the prompt depends on the input alone, through the plain model's reading of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import idpg

pytestmark = pytest.mark.torch
IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 2]])


def _applied(kind: str = "bert", **more: Any) -> tuple[nn.Module, idpg.Generator]:
    torch.manual_seed(0)
    model = idpg.apply(tiny.model(kind), **{"prompt_length": 2, "bottleneck": 4, "n": 2, **more}).eval()
    [child] = [child for child in kit.attached(model, "idpg") if isinstance(child, idpg.Generator)]
    for name in ("down", "up"):
        child.get_parameter(f"S_{name}").data.normal_()
        child.get_parameter(f"A_{name}").data.normal_()
    return model, child


def test_every_input_has_a_prompt_of_its_own() -> None:
    model, child = _applied()
    together = model(input_ids=IDS).logits
    prompts = child.generated(child.query, child.P)
    assert not torch.allclose(prompts[0], prompts[1])
    assert torch.allclose(model(input_ids=IDS[:1]).logits, together[:1]), "the rest of the batch does not count"
    with torch.no_grad():
        plain = tiny.model("bert").base_model(input_ids=IDS).last_hidden_state[:, 0]       # type: ignore[operator]
    model(input_ids=IDS)
    assert torch.equal(child.query, plain), "it reads the plain model's state"
    padded = torch.cat([IDS, torch.full((2, 2), 1)], dim=1)
    mask = (torch.arange(6) < 4).long().expand(2, -1)
    found = model(input_ids=padded, attention_mask=mask).logits
    assert torch.allclose(found, model(input_ids=IDS, attention_mask=mask[:, :4]).logits)

    child.get_parameter("S_up").data.zero_()
    prompts = child.generated(child.query, child.P)
    assert torch.equal(prompts[0], child.P)
    assert torch.equal(prompts[0], prompts[1]), "without the network it is a plain prompt"


def test_its_matrices_are_sums_of_kronecker_products() -> None:
    _, child = _applied()
    for name in ("down", "up"):
        s, a = child.get_parameter(f"S_{name}"), child.get_parameter(f"A_{name}")
        pairs = [torch.kron(*pair) for pair in zip(s, a, strict=True)]
        assert torch.allclose(child.weight(name), torch.stack(pairs).sum(dim=0))


def test_later_layers_change_the_prompt_and_share_the_network() -> None:
    model, child = _applied()
    biases = [place for place in kit.attached(model, "idpg") if isinstance(place, idpg.Bias)]
    assert len(biases) == len(kit.blocks(model, "layer")) - 1
    shallow, alone = _applied(deep=False)
    assert not any(isinstance(place, idpg.Bias) for place in kit.attached(shallow, "idpg"))
    alone.load_state_dict(child.state_dict())
    logits = model(input_ids=IDS).logits
    assert not torch.allclose(logits, shallow(input_ids=IDS).logits)
    child.get_parameter("S_up").data.zero_()
    alone.get_parameter("S_up").data.zero_()
    for place in biases:
        place.D.data.zero_()
    assert torch.allclose(model(input_ids=IDS).logits, shallow(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", ["llama", "vit", "t5"])
def test_other_models_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="an encoder of texts"):
        idpg.apply(tiny.model(kind))


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="widths that 5 divides were expected; found 12 and 10"):
        idpg.apply(tiny.model("bert"), n=5, bottleneck=10)
