"""Three files are all that a method touches: with one more in a copy of the checkout, its quick tests pass.

The method is the one of the guide, and it is added as the guide says.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guides_kit import blocks, commands, same
from tests.test_libraries import PYTHON

pytestmark = [pytest.mark.slow, pytest.mark.torch]

GUIDE = blocks(Path(__file__).parents[1], "add")
SOURCE = "nobody2024scaling"
ASIDE = shutil.ignore_patterns(".*", "build", "__pycache__", "node_modules")
QUICK = (
    "tests/test_coverage.py", "tests/test_knowledge.py", "tests/test_rules.py", "tests/test_evidence.py",
    "tests/test_cli.py", "tests/test_locators.py", "tests/test_libraries.py", "tests/test_commands.py",
    "tests/behaviour/test_behaviour.py::test_every_implementation_says_what_it_is",
    "tests/behaviour/test_behaviour.py::test_every_method_runs_on_several_families",
)  # fmt: skip
"""Those of the quick tests that look at every entry or at how many there are."""


@pytest.fixture(scope="module")
def grown(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with one more method."""
    tree = tmp_path_factory.mktemp("grown") / "tree"
    shutil.copytree(root, tree, ignore=ASIDE)
    shutil.copytree(root / ".github", tree / ".github")
    (skeleton, shown), *_ = commands(next(block.text for block in GUIDE if block.kind == "console"))
    made = ran(tree, *shlex.split(skeleton))
    assert same(shown, made.stdout), made.stdout + made.stderr
    for _, name, text in (block for block in GUIDE if block.title):
        file = tree / name
        before = file.read_text(encoding="utf-8").split(f"@article{{{SOURCE},")[0] if file.suffix == ".bib" else ""
        file.write_text(before + text, encoding="utf-8")
    return tree


def ran(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "ADAPTERS_PYTHON": str(PYTHON)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def test_the_entry_is_sound(grown: Path) -> None:
    done = ran(grown, "peftonomy", "check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_guide_shows_what_is_printed(grown: Path) -> None:
    """Its other commands: the check, a cost, and the verification."""
    _, *others = [example for block in GUIDE if block.kind == "console" for example in commands(block.text)]
    assert {command.split()[1] for command, _ in others} == {"check", "cost", "verify"}
    for command, shown in others:
        done = ran(grown, *shlex.split(command))
        assert done.returncode == 0, done.stdout + done.stderr
        assert same(shown, done.stdout), done.stdout


def test_the_quick_tests_pass(grown: Path) -> None:
    chosen = [*QUICK, "-m", "not slow and not browser"]
    done = ran(grown, "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
