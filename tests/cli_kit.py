"""The command line in this process, and a tree that a test may spoil."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from peftonomy.cli import main as _cli

from .knowledge import KB


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[[str], Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: one string of arguments, split at blanks (`~` stands for one).

    It reads no files again: without `--root`, it has the knowledge base of all tests.
    """

    def called(line: str) -> Result:
        words = [word.replace("~", " ") for word in line.split()]
        code = _cli.main(words, None if "--root" in words or "PEFTONOMY_ROOT" in os.environ else KB)
        return Result(code, *capsys.readouterr())

    return called


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may spoil."""
    for name in ("taxonomy", "methods", "backbones", "reference_impls"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "peftonomy", *arguments]


def assert_one_line(text: str) -> None:
    assert text.startswith("error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
