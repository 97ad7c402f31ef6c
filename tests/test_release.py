"""The files of a release name one version, and its workflow does what it says."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def released(root: Path, tmp_path: Path) -> dict[str, Any]:
    """The script's names, and a copy of the files that it reads, with a date instead of `(unreleased)`."""
    script = runpy.run_path(str(root / ".ci" / "release"))
    for name in script["PLACES"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    changes = tmp_path / "CHANGELOG.md"
    changes.write_text(changes.read_text("utf-8").replace(" (unreleased)", "", 1), encoding="utf-8")
    return script | {"root": tmp_path}


def test_every_file_names_the_version_of_the_tag(released: dict[str, Any]) -> None:
    import peftonomy

    tag = f"v{peftonomy.__version__}"
    changes = released["main"](tag, released["root"])
    assert changes.startswith("The foundation") or "### " in changes
    for name in released["PLACES"]:
        file = released["root"] / name
        before = file.read_text("utf-8")
        file.write_text(before.replace(peftonomy.__version__, "9.9.9", 1), encoding="utf-8")
        with pytest.raises(SystemExit, match=rf"{name}: found 9.9.9; expected the version of the tag {tag}"):
            released["main"](tag, released["root"])
        file.write_text(before, encoding="utf-8")


def test_workflows_are_sound(root: Path) -> None:
    """They parse, call targets that the Makefile has, need jobs that exist, and only a release may write."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in sorted((root / ".github" / "workflows").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets, path.name
        jobs = workflow["jobs"]
        for job in jobs.values():
            needed = job.get("needs", [])
            assert {needed} <= jobs.keys() if isinstance(needed, str) else set(needed) <= jobs.keys()
        assert workflow["permissions"] == {"contents": "read"}
        if path.stem == "release":
            assert jobs["publish"]["permissions"] == {"id-token": "write"}
            assert set(jobs["publish"]["needs"]) == {"test", "build"}
