"""The wheel, built from this checkout and installed without extras in an empty environment, is complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.answers import ANSWERS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PEFTONOMY", "VIRTUAL"))}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
WANTED = (
    "peftonomy/py.typed",
    "peftonomy/_data/methods/lora.yaml",
    "peftonomy/_data/taxonomy/references.bib",
    "peftonomy/_data/backbones/models/llama_2_7b.yaml",
    "peftonomy/_data/benchmarks/memory/simulated.tsv",
    "peftonomy/_data/evidence/studies.yaml",
    "peftonomy/_data/studies/tiny.yaml",
    "peftonomy/reference_impls/lora.py",
)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([*PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), str(root)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with nothing but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("empty")
    run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
    programs = folder / "venv" / "bin"
    run([str(programs / "python"), *PIP[1:], "install", str(wheel)], folder)
    return programs


def test_the_wheel_holds_what_was_committed_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"peftonomy"}
    assert set(WANTED) <= set(names)
    assert any(name.startswith("peftonomy/_data/site/") for name in names)
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]


@pytest.mark.parametrize(("line", "expected"), ANSWERS)
def test_every_answer_from_another_folder(
    line: str, expected: dict[str, int], installed: Path, tmp_path: Path
) -> None:
    printed = json.loads(run([str(installed / "peftonomy"), *line.split(), "--json"], tmp_path))
    assert {name: printed[name] for name in expected} == expected


def test_the_installed_tree_passes_its_own_check(installed: Path, tmp_path: Path) -> None:
    assert run([str(installed / "peftonomy"), "check"], tmp_path)


def test_neither_torch_nor_transformers_is_needed(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.util
import peftonomy
print([importlib.util.find_spec(name) for name in ("torch", "transformers")], len(peftonomy.load()) > 0)
"""
    assert run([str(installed / "python"), "-c", code], tmp_path) == "[None, None] True\n"


@pytest.mark.parametrize("command", [["verify", "lora"], ["site", "build", "--out", "somewhere"]])
def test_what_needs_an_extra_says_so_in_one_line(command: list[str], installed: Path, tmp_path: Path) -> None:
    line = [str(installed / "peftonomy"), *command]
    done = subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.torch
def test_implementations_are_verified_from_the_wheel(wheel: Path, root: Path, tmp_path: Path) -> None:
    """In another folder, with torch: ours passes, and a wrong one fails with the reason in one line."""
    run([*PIP, "install", "--no-deps", "--target", str(tmp_path / "library"), str(wheel)], tmp_path)
    text = (root / "tests" / "data" / "another_lora.py").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "library")}

    def verify(*words: str) -> tuple[int, str]:
        asked = [sys.executable, "-m", "peftonomy", "verify", "lora", "--family", "llama", *words]
        done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    where = [sys.executable, "-c", "import peftonomy; print(peftonomy.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(tmp_path / "library"))
    code, printed = verify("--junit", "report.xml")
    assert code == 0, printed
    assert "checks passed" in printed
    assert (tmp_path / "report.xml").read_text(encoding="utf-8").startswith("<?xml")
    for function, says in (
        ("wrong_scale", "lora: golden: output: differs"), ("wrong_init", "lora: start: A:"),
        ("unfrozen", "lora: tensors: not declared, yet there or trained"),
    ):  # fmt: skip
        code, printed = verify("--implementation", f"mine:{function}")
        assert code == 1
        assert any(line.startswith(says) for line in printed.splitlines()), printed
