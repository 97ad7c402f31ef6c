"""Every cited file and symbol of code was looked up at the commit that the bibliography names.

What was found is in `taxonomy/locators.json`, written by `python -m tests.locators`. Libraries that the tests install
are looked up here, in the installed release.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from peftonomy import KnowledgeBase

from . import locators
from .locators import INSTALLED, Locator, has_default, has_symbol

ADAPTERS = Path(os.environ.get("ADAPTERS_PYTHON", locators.ROOT / ".venv-adapters/bin/python"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(locators.FILE.read_text(encoding="utf-8"))
    return found


def missing(found: Iterable[Locator], lock: dict[str, Any]) -> list[str]:
    """The citations that were not looked up."""
    problems = []
    for one in found:
        file = lock.get(one.key, {}).get("files", {}).get(one.file)
        if file is None:
            problems.append(f"{one.where}: {one.key}#{one.file}")
        elif one.symbol and one.symbol not in file.get("symbols", ()):
            problems.append(f"{one.where}: {one.key}#{one.file}:{one.symbol}")
        elif one.default and one.default not in file.get("defaults", ()):
            problems.append(f"{one.where}: {one.key}#{one.file} has no {one.default}")
    return problems


def test_every_cited_file_symbol_and_default_was_found(kb: KnowledgeBase, lock: dict[str, Any]) -> None:
    cited = [one for one in locators.locators(kb) if one.key not in INSTALLED]
    assert missing(cited, lock) == []
    assert [k for k, record in lock.items() if not record["commit"].startswith(locators.commit_of(kb, k))] == []
    named = {(one.key, one.file) for one in cited}
    assert {(key, file) for key, record in lock.items() for file in record["files"]} == named
    wrong = [Locator("code_dora", "README.md", "no_such_symbol", "", ""), Locator("code_dora", "x.py", "", "", "")]
    assert len(missing(wrong, lock)) == 2


def test_a_learning_rate_names_an_optimizer_other_than_adamw(kb: KnowledgeBase, lock: dict[str, Any]) -> None:
    unnamed, named = [], 0
    for method in kb.values():
        for rate in method.entry.learning_rates:
            key, _, place = rate.source.partition("#")
            for optimizer in lock.get(key, {}).get("files", {}).get(place.partition(":")[0], {}).get("optimizers", ()):
                named += 1
                if optimizer not in (rate.note or "").lower():
                    unnamed.append(f"{method.id}: {rate.source} trains with {optimizer}")
    assert unnamed == []
    assert named, "one source at least has another optimizer"
    assert locators.other_optimizers("python sft.py --use_lion --lr 1\noptim: SGD") == ["lion", "sgd"]
    assert locators.other_optimizers("### SGD results\n--opt sgd\n--opt scaled_adamw") == []


def test_every_cited_row_of_a_table_is_there(kb: KnowledgeBase) -> None:
    cited = {tuple(text.partition("#")[::2]) for method in kb.values() for _, text in method.entry.citations()}
    found = [(key, row) for key, row in cited if row and locators.table(key).exists()]
    assert found
    rows = {key: locators.table(key).read_text(encoding="utf-8") for key, _ in found}
    assert [(key, row) for key, row in found if f'"run": "{row}"' not in rows[key]] == []


def installed(key: str) -> tuple[Path, str]:
    """The folder and the version of the installed library of a record."""
    package = INSTALLED[key]
    if package == "adapters":
        if not ADAPTERS.exists():
            pytest.skip("no environment with adapters")
        program = "import importlib.util as u, importlib.metadata as m; print(u.find_spec('adapters').origin); "
        program += "print(m.version('adapters'))"
        lines = subprocess.run([ADAPTERS, "-c", program], check=True, capture_output=True, text=True).stdout.split()
        return Path(lines[0]).parent, lines[1]
    from importlib.metadata import version

    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent, version(package)


@pytest.mark.torch
@pytest.mark.parametrize("key", INSTALLED)
def test_every_cited_file_of_a_library_is_in_the_installed_release(kb: KnowledgeBase, key: str) -> None:
    folder, version = installed(key)
    stated = kb.references[key].fields["version"]
    assert version.split(".")[:2] == stated.split(".")[:2], f"{key} states {stated}, {version} is installed"
    problems = []
    for one in locators.locators(kb):
        if one.key != key:
            continue
        path = folder.parent / one.file.removeprefix("src/")
        if not path.is_file():
            problems.append(f"{one.where}: no file {one.file}")
            continue
        text = path.read_text(encoding="utf-8")
        if one.symbol and not has_symbol(text, one.symbol):
            problems.append(f"{one.where}: {one.file} has no {one.symbol}")
        if one.default and not has_default(text, one.default):
            problems.append(f"{one.where}: {one.file} has no {one.default}")
    assert problems == []
