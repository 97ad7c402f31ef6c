"""The conformance suite on implementations that are not ours: good ones pass, wrong ones fail with the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import peft
import pytest
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftonomy import UsageError
from peftonomy.conformance import checks, suite
from peftonomy.conformance.trial import KB
from reference_impls import _kit as kit

pytestmark = pytest.mark.torch
HERE = Path(__file__).parent / "data"
WRONG = {
    "wrong_scale": "golden: output", "wrong_init": "start: A: lies in", "unfrozen": "tensors: not declared",
}  # fmt: skip


def problems(method: str, module: Any, family: str = "llama") -> list[str]:
    found = suite.run(suite.cases(method, module, [family]))
    return [f"{result.case.what}: {problem}" for result in found for problem in result.problems]


def test_a_lora_from_elsewhere_passes() -> None:
    """It has no bias of its own, so it is refused the settings that ask for one, and nothing else."""
    found = problems("lora", suite.implementation("tests.data.another_lora:apply"))
    assert [p for p in found if "this LoRA has no bias" not in p] == []


@pytest.mark.parametrize(("function", "says"), WRONG.items())
def test_a_wrong_lora_fails_with_the_reason(function: str, says: str) -> None:
    found = problems("lora", suite.implementation(f"tests.data.another_lora:{function}"))
    assert any(problem.startswith(says) for problem in found), found
    assert all("\n" not in problem for problem in found)


def test_every_check_is_in_the_suite() -> None:
    found = list(suite.cases("lora"))
    assert {case.what for case in found} == {check.__name__ for check in checks.CHECKS} | {"start", "golden"}


def test_what_cannot_be_imported_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="cannot import no_such_package"):
        suite.implementation("no_such_package.lora:apply")
    with pytest.raises(UsageError, match="has no function aply; did you mean apply"):
        suite.implementation("tests.data.another_lora:aply")


def test_the_report_is_junit(tmp_path: Path) -> None:
    module = suite.implementation("tests.data.another_lora:unfrozen")
    results = list(suite.run(suite.cases("lora", module, ["llama"])))
    root = ElementTree.fromstring(suite.junit(results))
    assert int(root.attrib["tests"]) == len(results) == len(root.findall("testcase"))
    assert int(root.attrib["failures"]) == len(root.findall("testcase/failure")) > 0


# peft's own layers.

PEFT: dict[str, Mapping[str, str]] = {
    "lora": {"lora_A.default.weight": "lora.A", "lora_B.default.weight": "lora.B", "lora_B.default.bias": "lora.b"},
    "dora": {"lora_A.default.weight": "dora.A", "lora_B.default.weight": "dora.B",
             "lora_magnitude_vector.default.weight": "dora.m"},
    "hra": {"hra_u.default": "hra.U"},
}  # fmt: skip


def of_peft(method: str) -> Any:
    """peft's layers as an implementation: injected into the model, and merged one by one."""

    def apply(model: nn.Module, *, targets: Any = None, **setting: Any) -> nn.Module:
        parts, training = kit.inventory(model), model.training
        asked = {"targets": list(targets)} if targets else {}
        config = KB[method].export(parts.backbone, task=parts.task, num_labels=parts.num_labels, **asked, **setting)
        arguments = {k: v for k, v in config.arguments.items() if k != "task_type"}
        peft.inject_adapter_in_model(getattr(peft, config.symbol)(**arguments), model)
        return model.double().train(training)      # what peft injects is in training mode

    def merge(model: nn.Module) -> nn.Module:
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, module.get_base_layer())
        return model

    names = {"base_layer.weight": "weight", "base_layer.bias": "bias", **PEFT[method]}
    return SimpleNamespace(apply=apply, merge=merge, NAMES=names)


@pytest.mark.parametrize("method", PEFT)
def test_layers_of_peft_conform(method: str) -> None:
    declared = KB[method].entry.implementations["hf_peft"].deviations
    apart = {row for deviation in declared for row in deviation.golden}
    found = problems(method, of_peft(method), "bert" if method == "lora" else "llama")      # biases need biases
    assert [p for p in found if p.removeprefix("golden: ").partition(":")[0] not in apart] == []


# From other places.


def test_from_pytest(tmp_path: Path) -> None:
    """The plug-in adds a test for each case; one fails, with its reason and without a traceback."""
    (tmp_path / "test_nothing.py").write_text("", encoding="utf-8")
    (tmp_path / "mine.py").write_text((HERE / "another_lora.py").read_text(encoding="utf-8"), encoding="utf-8")
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]       # the plug-in is installed
    asked += ["--peftonomy", "lora=mine:unfrozen", "-k", "llama"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not declared, yet there or trained: ['model.embed_tokens.weight']" in done.stdout
    assert "Traceback" not in done.stdout
