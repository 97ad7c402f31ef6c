"""Three files are all that a method touches: with one more in a copy of the checkout, its quick tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_libraries import PYTHON

pytestmark = [pytest.mark.slow, pytest.mark.torch]

ENTRY = """\
id: output_scaling
name: Output scaling
full_name: One trained factor per output of a linear module
year: 2024
category: additive.others
facets: {acts_on: hidden_state, change: scaled, budget: fixed, sharing: none, training: direct, goal: storage}
summary: Multiplies every output of the targeted linear modules by a factor of its own.
description: A method that exists in this test only.
source: nobody2024scaling
update: "h = s \\\\odot W_0 x"
where: On the output of each targeted linear module.
targets: {default: [attn.k, attn.v], allowed: ["attn.*"], source: nobody2024scaling}
tensors:
  s: {per: site, shape: [d_out], init: ones, trained: true, stored: values, served: merged}
properties: {identity_at_init: exact}
memory:
  operations:
    - per: site
      functions:
        after x y: mul y .s
basis: {rests_on: paper, reason: There is no code., source: editors}
"""
MODULE = '''"""Output scaling (nobody2024scaling#section-2): h = s * W x. Trains s, which can be merged."""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Scale(kit.Child):
    """A factor for every output."""

    def __init__(self, d_out: int):
        super().__init__()
        self.s = nn.Parameter(torch.ones(d_out))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return self.s * y


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("attn.k", "attn.v")) -> nn.Module:
    """Freeze the model and scale the outputs of every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "output_scaling", Scale(site.d_out))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Fold the factors into weights and biases."""
    for site, child in kit.at_sites(model, "output_scaling", Scale):
        site.weight.mul_(child.s[:, None])
        if site.bias is not None:
            site.bias.mul_(child.s)
    kit.detach(model, "output_scaling")
    return model
'''
RECORD = """
@article{nobody2024scaling,
  title  = {Output Scaling},
  author = {Nobody, Ann},
  year   = {2024},
  eprint = {2401.00001},
  read   = {paper},
}
"""
ASIDE = shutil.ignore_patterns(".*", "build", "__pycache__", "node_modules")
QUICK = (
    "tests/test_coverage.py", "tests/test_knowledge.py", "tests/test_rules.py", "tests/test_evidence.py",
    "tests/test_cli.py", "tests/test_locators.py", "tests/test_libraries.py", "tests/test_commands.py",
)  # fmt: skip
"""The modules among the quick tests that look at every entry or at how many there are."""


@pytest.fixture(scope="module")
def grown(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with one more method."""
    tree = tmp_path_factory.mktemp("grown") / "tree"
    shutil.copytree(root, tree, ignore=ASIDE)
    shutil.copytree(root / ".github", tree / ".github")
    (tree / "methods" / "output_scaling.yaml").write_text(ENTRY, encoding="utf-8")
    (tree / "reference_impls" / "output_scaling.py").write_text(MODULE, encoding="utf-8")
    with (tree / "taxonomy" / "references.bib").open("a", encoding="utf-8") as file:
        file.write(RECORD)
    return tree


def ran(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "ADAPTERS_PYTHON": str(PYTHON)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def test_the_entry_is_sound(grown: Path) -> None:
    done = ran(grown, "peftonomy", "check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_implementation_is_verified(grown: Path) -> None:
    done = ran(grown, "peftonomy", "verify", "output_scaling")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_quick_tests_pass(grown: Path) -> None:
    chosen = [*QUICK, "-m", "not slow and not browser"]
    done = ran(grown, "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
