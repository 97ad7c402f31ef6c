"""AdapterSoup: the average of equals is itself, of near ones acts as their mean, and the nearest domains are chosen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import adaptersoup

pytestmark = pytest.mark.torch
FAMILY = "gpt2"


def trained(start: int, domain: int = 0, step: float = 0.0) -> nn.Module:
    """An adapter that began at the seed `start` and went a step in the direction of its domain."""
    torch.manual_seed(start)
    model = adaptersoup.apply(tiny.model(FAMILY), bottleneck=5)
    torch.manual_seed(100 + domain)
    for child in kit.attached(model, "adaptersoup"):
        for parameter in child.parameters():
            parameter.data = 10 * parameter.data + step * torch.randn_like(parameter)
    return model


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return tiny.outputs(model, FAMILY)


def test_the_soup_of_equal_adapters_is_that_adapter() -> None:
    one = trained(0, domain=1, step=0.3)
    soup = adaptersoup.soup(trained(7), [copy.deepcopy(one) for _ in range(3)])
    assert torch.allclose(outputs(soup), outputs(one), atol=1e-12)
    assert not torch.allclose(outputs(trained(7)), outputs(one), atol=1e-2)


def test_every_number_is_the_mean_and_the_ingredients_stay() -> None:
    ingredients = [trained(0, domain, 0.3) for domain in range(4)]
    before = [outputs(one) for one in ingredients]
    soup = adaptersoup.soup(trained(0), ingredients)
    for name, value in soup.named_parameters():
        if ".adaptersoup." in name:
            same = [dict(one.named_parameters())[name] for one in ingredients]
            assert torch.allclose(value, sum(same) / 4)  # type: ignore[arg-type]
    assert all(torch.equal(outputs(one), old) for one, old in zip(ingredients, before, strict=True))


def error(step: float) -> float:
    """How far the soup's output is from the mean of its ingredients' outputs, beside how far those are apart."""
    ingredients = [trained(0, domain, step) for domain in range(3)]
    each = torch.stack([outputs(one) for one in ingredients])
    soup = outputs(adaptersoup.soup(trained(0), ingredients))
    return float((soup - each.mean(0)).abs().mean() / each.std(0).mean())


def test_near_a_common_start_averaging_weights_averages_outputs() -> None:
    """What is left is of second order: a tenth of the step leaves about a tenth of the share."""
    small, large = error(0.001), error(0.3)
    assert small < 0.02
    assert large > 10 * small


def test_the_domains_with_the_most_similar_texts_are_chosen() -> None:
    torch.manual_seed(0)
    topics = torch.eye(6, 20, dtype=torch.float64)
    domains = topics[:, None] + 0.1 * torch.randn(6, 30, 20, dtype=torch.float64)
    new = 0.8 * topics[4] + 0.6 * topics[1] + 0.1 * torch.randn(12, 20, dtype=torch.float64)
    assert adaptersoup.choose(domains, new, number=2) == [4, 1]
    assert adaptersoup.choose(5 * domains, new, number=2) == [4, 1]     # lengths do not count
