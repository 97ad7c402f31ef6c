"""Building the site into a folder: what is there is replaced by a whole site, or stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import peftonomy
from peftonomy import UsageError
from peftonomy.cli import main as _cli
from peftonomy.site import build, pages

from .conftest import ROOT
from .trees import small_tree

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return small_tree(root, tmp_path / "tree", "lora")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A site as an earlier version built it, in the parts that tell that it is one."""
    folder = tmp_path / "old"
    (folder / "api" / "v1").mkdir(parents=True)
    (folder / "index.html").write_text("the old page")
    (folder / "gone.html").write_text("a page that there is no more")
    (folder / "api" / "v1" / "index.json").write_text(json.dumps({"schema_version": "0.9", "methods": []}))
    (folder / ".git").write_text("gitdir: elsewhere")
    return folder


FOREIGN: dict[str, dict[str, str]] = {
    "a file": {"thesis.tex": "years of work"},
    "another site": {"index.html": "mine"},
    "another API": {"index.html": "mine", "api/v1/index.json": "[]"},
    "no JSON": {"index.html": "mine", "api/v1/index.json": "<html>"},
    "sources": {"assets/peftonomy.js": "", "pages/index.md": ""},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_other_things_is_refused(
    tree: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    for name, text in FOREIGN[case].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = contents(folder)
    assert _cli.main(["--root", str(tree), "site", "build", "--out", str(folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert str(folder) in told
    assert contents(folder) == before


def test_a_file_is_no_folder(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(UsageError, match="file"):
        build(peftonomy.load(tree), path)
    assert path.read_text() == "mine"


def test_a_build_replaces_an_older_site(tree: Path, old: Path) -> None:
    for _ in range(2):  # and the one that it has built itself
        assert _cli.main(["--root", str(tree), "site", "build", "--out", str(old)]) == 0
        found = contents(old)
        assert b"the old page" not in found["index.html"]
        assert "gone.html" not in found
        assert found[".git"] == b"gitdir: elsewhere"  # mkdocs, too, leaves hidden files alone
        assert not [name for name in found if name.startswith(".") and name != ".git"]
        assert [path.name for path in old.parent.iterdir() if path.name.startswith(".")] == []


def test_a_link_to_a_site_stays_a_link(tree: Path, old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    build(peftonomy.load(tree), link)
    assert link.is_symlink()
    assert "methods/lora.html" in contents(old)


def test_bad_data_leaves_the_old_site_and_exits_with_1(
    tree: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = tree / "methods" / "lora.yaml"
    entry.write_text(re.sub("^summary:", "sumary:", entry.read_text(), flags=re.MULTILINE))
    before = contents(old)
    assert _cli.main(["--root", str(tree), "site", "build", "--out", str(old)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: methods/lora.yaml:")
    assert told.count("\n") == 1
    assert contents(old) == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_an_interrupted_build_leaves_the_old_site(
    tree: Path, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def interrupted(config: Any) -> None:
        folder = Path(config.site_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text("half a")
        raise error

    monkeypatch.setattr("mkdocs.commands.build.build", interrupted)
    before = contents(old)
    assert _cli.main(["--root", str(tree), "site", "build", "--out", str(old)]) == code
    assert contents(old) == before
    new = tmp_path / "new"
    assert _cli.main(["--root", str(tree), "site", "build", "--out", str(new)]) == code
    assert not new.exists()


def test_an_interrupted_exchange_is_undone(tree: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(config: Any) -> None:
        folder = Path(config.site_dir)
        folder.mkdir(parents=True)
        for name in ("404.html", "index.html", "other.html"):
            (folder / name).write_text("new")

    monkeypatch.setattr("mkdocs.commands.build.build", built)
    before, rename, left = contents(old), Path.rename, 0

    def interrupted(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    stopped = 0
    for turn in range(1, 7):
        left = turn
        assert _cli.main(["--root", str(tree), "site", "build", "--out", str(old)]) == 130
        assert contents(old) == before
        stopped += 1
    assert stopped == 6


def test_no_code_of_another_tree_runs(tree: Path, tmp_path: Path) -> None:
    """Hooks, templates and scripts beside the data are code."""
    for name in ("site", "mkdocs.yml"):
        (tree / name).unlink()
    ran = tmp_path / "ran"
    (tree / "mkdocs.yml").write_text("site_name: theirs\nhooks: [hook.py]\n")
    (tree / "hook.py").write_text(f"open({str(ran)!r}, 'w')\n")
    templates = tree / "site" / "templates"
    templates.mkdir(parents=True)
    (templates / "method.md").write_text("theirs: {{ ''.__class__.__mro__[1].__subclasses__() }}")
    (tree / "site" / "settings.yaml").write_bytes((ROOT / "site" / "settings.yaml").read_bytes())
    folder = build(peftonomy.load(tree), tmp_path / "built")
    assert not ran.exists()
    assert b"theirs" not in (folder / "methods" / "lora.html").read_bytes()


SETTINGS = {
    "": "a mapping", "- a list": "a mapping", "examples: 3": "examples", "exampels: [gpt2]": "did you mean examples",
}  # fmt: skip


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_that_are_wrong_are_reported(tree: Path, text: str) -> None:
    (tree / "site").unlink()
    (tree / "site").mkdir()
    (tree / "site" / "settings.yaml").write_text(text)
    kb = peftonomy.load(tree)
    assert any(p.file == "site/settings.yaml" and SETTINGS[text] in str(p) for p in peftonomy.check(kb))
    with pytest.raises(peftonomy.DataError, match="site/settings.yaml"):
        pages(kb)


def test_words_of_the_search_that_are_wrong_are_reported(tree: Path) -> None:
    (tree / "site").unlink()
    (tree / "site").mkdir()
    (tree / "site" / "search.yaml").write_text("stop: [a]\nsynonym: [[a, b]]\n")
    kb = peftonomy.load(tree)
    assert any(p.file == "site/search.yaml" and "synonyms" in str(p) for p in peftonomy.check(kb))
    with pytest.raises(peftonomy.DataError, match="site/search.yaml"):
        pages(kb)
