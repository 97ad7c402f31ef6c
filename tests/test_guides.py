"""Every command and every snippet of the guides is run, and prints what the guide shows."""

from __future__ import annotations

import doctest
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftonomy.cli import main as _cli
from peftonomy.site._reference import GUIDES

from .guides_kit import blocks, commands, same

pytestmark = pytest.mark.slow

HERE = ("size", "gpus", "compare", "adapter")
"""Guides that only ask. `test_one_more_method.py` runs the guide that adds a method, `test_studies.py` the study."""


def test_every_guide_is_run(root: Path) -> None:
    written = {path.stem for path in (root / "site" / "pages" / "guides").glob("*.md")}
    assert written == GUIDES.keys() == {*HERE, "add", "study"}


@pytest.mark.parametrize("guide", HERE)
def test_a_guide_shows_what_is_printed(
    guide: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    ran = 0
    for kind, title, text in blocks(root, guide):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif kind == "console":
            for command, shown in commands(text):
                program, *words = shlex.split(command)
                assert program == "peftonomy"
                _cli.main(words)
                printed = capsys.readouterr()
                assert same(shown, printed.out + printed.err), printed.out + printed.err
                ran += 1
        else:
            assert kind == "pycon"
            session = doctest.DocTestParser().get_doctest(text, names, guide, None, None)
            assert session.examples
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert runner.run(session, clear_globs=False).failed == 0, capsys.readouterr().out
            names.update(session.globs)
            ran += len(session.examples)
    assert ran >= 4


def test_the_notebook_runs(root: Path, monkeypatch: pytest.MonkeyPatch, kb: object) -> None:
    """Its code cells run in order, and its plots have lines."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    notebook = json.loads((root / "examples" / "costs.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {}
    shown: Callable[[], None] = lambda: None  # noqa: E731
    monkeypatch.setattr(pyplot, "show", shown)
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "costs.ipynb", "exec"), names)
    drawn = [ax for number in pyplot.get_fignums() for ax in pyplot.figure(number).axes]
    assert len(drawn) >= 2
    assert all(ax.lines or ax.patches for ax in drawn)
    pyplot.close("all")
