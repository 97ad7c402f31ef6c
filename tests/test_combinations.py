"""Sums of adapters and conversions to LoRA: peft gives every result that `taxonomy/combinations.yaml` declares."""

from __future__ import annotations

import json
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.conversion import convert_to_lora
from torch import Tensor, nn

from peftonomy.knowledge.check import check

from .cli_kit import Run
from .knowledge import KB

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
FILE = KB.combinations
assert FILE is not None
WEIGHTS, RANK = [0.7, -0.4], 6
SMALL, LARGE = 1e-4, 1e-2
"""Relative errors below which a result is exact, and above which it is another one."""
CASES = [(name, way) for name, one in FILE.sums.items() for way in one.ways]


class Model(nn.Module):
    """One linear module."""

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.lin = nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin(x)
        return out


def configured(config: dict[str, Any]) -> Any:
    given = {name: value for name, value in config.items() if name != "peft_type"}
    if given.get("kasa_config") == {}:
        given["kasa_config"] = peft.tuners.lora.config.KasaConfig()
    return PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]](target_modules=["lin"], **given)


def adapted(configs: list[dict[str, Any]], d_in: int, d_out: int) -> Any:
    """A model with adapters a, b, ..., each with random values. Those that make up a weight with its base keep it."""
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(Model(d_in, d_out), configured(configs[0]), adapter_name="a")
    for name, config in zip("bc", configs[1:], strict=False):
        model.add_adapter(name, configured(config))
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "base_layer" not in name and value.is_floating_point():
            value.data = 0.3 * torch.randn(value.shape, generator=generator) + ("magnitude" in name)
    return model


@torch.no_grad()
def added(names: list[dict[str, Any]], way: str, weights: list[float], **more: Any) -> tuple[float, float]:
    """The relative errors of the sum at a sufficient rank, and at rank 3, or infinity if peft raises an error."""
    found = []
    for rank in (RANK, 3):
        model, x = adapted(names, 12, 10), torch.randn(50, 12, generator=torch.Generator().manual_seed(2))
        with model.disable_adapter():
            plain = model(x)
        wanted = torch.zeros_like(plain)
        for name, weight in zip("ab", weights, strict=False):
            model.set_adapter(name)
            wanted += weight * (model(x) - plain)
        options = {"combination_type": way, **more} | ({"svd_rank": rank} if way.endswith("svd") else {})
        options = {} if isinstance(model.peft_config["a"], peft.IA3Config) else options
        try:
            model.add_weighted_adapter(["a", "b"][: len(weights)], weights, "sum", **options)
        except (ValueError, TypeError, AttributeError):
            return float("inf"), float("inf")
        model.set_adapter("sum")
        found.append(((model(x) - plain - wanted).norm() / wanted.norm()).item())
    return found[0], found[1]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_sums(name: str, way: str) -> None:
    one = FILE.sums[name]
    for ours in FILE.ways[way].names:
        pruned = {} if ours in ("cat", "svd", "linear") else {"density": 0.5}
        high, low = added(one.configs, ours, WEIGHTS, **pruned)
        alone, _ = added(one.configs, ours, [1.0], **dict.fromkeys(pruned, 1.0))
        outcome = (
            "refused" if high == float("inf") else "wrong" if alone > LARGE and one.ways[way] == "wrong" else
            "exact" if max(high, low) < SMALL else "at_rank" if high < SMALL < low else "approximate"
        )  # fmt: skip
        assert outcome == one.ways[way], (ours, high, low, alone)
        if outcome != "refused" and one.ways[way] != "wrong" and name != "ia3":
            assert alone < SMALL, "one adapter with the weight 1 is itself"


def test_ia3_adds_up_if_the_weights_have_the_sum_1() -> None:
    assert added(FILE.sums["ia3"].configs, "linear", [0.7, 0.3])[0] < SMALL
    assert added(FILE.sums["ia3"].configs, "linear", WEIGHTS)[0] > LARGE


@torch.no_grad()
def converted(config: dict[str, Any], rank: int) -> float:
    """The relative error of the conversion, or infinity if peft refuses it."""
    model, x = adapted([config], FILE.width, FILE.width), torch.randn(80, FILE.width)
    with model.disable_adapter():
        plain = model(x)
    wanted = model(x) - plain
    try:
        _, state = convert_to_lora(model, rank=rank, adapter_name="a")
    except TypeError:
        return float("inf")
    a, b = (next(value for name, value in state.items() if f"lora_{part}" in name) for part in "AB")
    return ((x @ a.T @ b.T - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("name", FILE.conversions)
def test_conversions(name: str) -> None:
    one = FILE.conversions[name]
    width = FILE.width
    rank = width if one.rank is None else one.rank({**one.config, "width": width})
    error = converted(one.config, rank)
    assert one.result == ("refused" if error == float("inf") else "exact" if error < SMALL else "wrong"), error
    if one.result == "exact" and not one.bound and name != "miss":
        assert converted(one.config, rank - 1) > SMALL
    for lower, expected in one.errors.items():
        assert converted(one.config, int(lower)) == pytest.approx(expected, abs=0.015)


def test_methods_are_those_of_the_configurations() -> None:
    for name, one in FILE.conversions.items():
        found = KB.adapter({**one.config, "target_modules": ["q_proj"]}, "llama_3_2_1b").method.id
        assert found == one.method, name


def test_check_reads_the_file() -> None:
    assert [problem for problem in check(KB) if "combinations" in problem.file] == []


def test_the_command_lists_the_records_of_a_method(run: Run) -> None:
    found = json.loads(run("combine dora --json").out)
    assert found["sums"]["dora"]["ways"] == FILE.sums["dora"].ways
    assert list(found["conversions"]) == ["dora"]
    assert "magnitudes" in run("combine dora").out
    assert json.loads(run("combine loha --json").out)["conversions"]["loha"]["rank"] == "r ** 2"
