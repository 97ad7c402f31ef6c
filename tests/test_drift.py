"""`peftonomy drift`: library files equal the pinned libraries, and every kind of difference is found and written."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

import peftonomy
from peftonomy import UsageError
from peftonomy.libraries.drift import changes, installed, rewritten
from peftonomy.schema.library import Library, load_library

from .cli_kit import Run
from .knowledge import KB

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("ADAPTERS_PYTHON", ROOT / ".venv-adapters/bin/python")).absolute()
PEFT, ADAPTERS = (KB.libraries[name] for name in ("hf_peft", "adapters"))


@pytest.fixture(scope="module")
def peft() -> dict[str, Any]:
    return installed(PEFT)


@pytest.fixture(scope="module")
def adapters() -> dict[str, Any]:
    if not PYTHON.exists():
        absent = f"{PYTHON} is not there: `make test` builds it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)
    return installed(ADAPTERS, str(PYTHON))


def test_the_files_equal_the_pinned_libraries(peft: dict[str, Any], adapters: dict[str, Any]) -> None:
    assert list(changes(PEFT, peft)) == []
    assert list(changes(ADAPTERS, adapters)) == []


def altered(found: dict[str, Any], kind: str) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """The description of a later release that differs, and the differences to be reported."""
    new = copy.deepcopy(found)
    first, *_, last = own = new["types"][kind]["arguments"]
    own[first] = "something_else"
    for name in (kind, *(name for name, one in ADAPTERS.types.items() if one.like == kind and name in new["types"])):
        arguments = new["types"][name]["arguments"]
        del arguments[last]
        arguments["brand_new"] = [1, "two", {"three": None}]
    above = {name: new["types"]["LORA"]["arguments"][name] for name in PEFT.arguments} if "LORA" in new["types"] else {}
    beard = {"arguments": above | {"beard": True}, "nullable": []}
    new["types"]["ZZ_TOP"] = {"symbol": "TopConfig", "saved": "top", **beard}
    new["version"] = "99.0"
    return new, [
        ("version", "", ""), ("default", kind, first), ("argument is gone", kind, last),
        ("new argument", kind, "brand_new"), ("new type", "ZZ_TOP", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["LORA", "IA3", "BEFT"])
def test_every_difference_is_found_and_written(peft: dict[str, Any], kind: str, tmp_path: Path) -> None:
    new, expected = altered(peft, kind)
    assert sorted((c.what, c.type, c.name) for c in changes(PEFT, new)) == sorted(expected)
    assert list(changes(written(PEFT, new, tmp_path), new)) == []


@pytest.mark.parametrize("kind", ["LoRAConfig", "BnConfig", "PromptTuningConfig"])
def test_classes_that_inherit(adapters: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """Classes that inherit get and lose the arguments of their parent, and keep their own defaults."""
    new, expected = altered(adapters, kind)
    new["shorthands"]["another"] = {"type": "LoRAConfig", "values": {}}
    found = {(c.what, c.type, c.name) for c in changes(ADAPTERS, new)}
    assert found >= {*expected, ("new short name", "", "another")}
    again = written(ADAPTERS, new, tmp_path)
    left = {c.what for c in changes(again, new)}
    assert left <= {"new short name", "short name"}, "short names are reported and not written"


def written(library: Library, found: dict[str, Any], folder: Path) -> Library:
    text = KB.libraries.path(library.id).read_text(encoding="utf-8")
    path = folder / f"{library.id}.yaml"
    new = rewritten(library, text, found)
    path.write_text(new, encoding="utf-8")
    assert all(len(line) <= 120 for line in {*new.splitlines()} - {*text.splitlines()})
    return load_library(path, path.name)


def test_types_that_are_gone_stay_in_the_file(peft: dict[str, Any], tmp_path: Path) -> None:
    new = copy.deepcopy(peft)
    del new["types"]["LOHA"]
    assert [(c.what, c.type) for c in changes(PEFT, new)] == [("type is gone", "LOHA")]
    assert "LOHA" in written(PEFT, new, tmp_path).types


def test_the_command(run: Run, peft: dict[str, Any]) -> None:
    result = run("drift peft")
    said = f"peft {peft['version']}: 0 differences from taxonomy/libraries/hf_peft.yaml\n"
    assert (result.code, result.out) == (0, said)
    assert json.loads(run("drift peft --json").out) == []


def test_a_library_that_is_not_installed_is_one_clear_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module of this name >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UsageError, match="PEFT cannot be introspected with .*: no module of this name"):
        installed(PEFT, str(python))


def test_a_program_that_is_no_python_is_refused(kb: peftonomy.KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="/bin/true is no Python: it did not print what PEFT has"):
        installed(kb.libraries["hf_peft"], "/bin/true")
