"""Cited files and symbols: do they exist at the commit that the bibliography names?

    python -m tests.locators MIRRORS

MIRRORS is a folder of git directories, `<owner>+<name>/repo` for each repository. Every citation of a file of code is
looked up there, at the commit of its record, and `taxonomy/locators.json` is written: the full commit, and for each
cited file its blob, the cited symbols and defaults that stand in it, and for a learning rate the optimizers other than
AdamW that the file chooses. A test without network holds the entries to that file, so that nobody cites what was not
looked up. Libraries that the tests install are looked up as installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peftonomy
from peftonomy import KnowledgeBase

ROOT = Path(__file__).parent.parent
FILE = ROOT / "taxonomy" / "locators.json"
REPOSITORY = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?(?:/.*)?\Z")
INSTALLED = {"hf_peft": "peft", "adapters_lib": "adapters", "hf_transformers": "transformers"}
"""Records of libraries whose release the tests install, and the package."""
OPTIMIZER = re.compile(r"(?:optim\w*|\bopt)[\"']?[\s=:]+[\"']?(\w+)|--use_(adafactor|lion|sgd)\b", re.I)
"""An option that sets the optimizer."""
NOT_ADAM = {"adafactor", "adagrad", "lion", "prodigy", "rmsprop", "sgd"}


@dataclass(frozen=True)
class Locator:
    """One citation of code: the record, the file, the symbol (or nothing), and the default that it stands behind."""

    key: str
    file: str
    symbol: str
    default: str
    where: str


def locators(kb: KnowledgeBase) -> Iterator[Locator]:
    """Every citation of a file of code in the entries, the libraries, the trainers and the engines."""
    for method in kb.values():
        values = {
            f"hyperparameters.{name}.source": spec.literal or spec.default
            for name, spec in method.entry.hyperparameters.items()
            if not (isinstance(spec.default, str) and spec.type != "choice")
        }
        for keys, citation in method.entry.citations():
            yield from _locator(kb, method.id, keys, citation, values)
        for i, rate in enumerate(method.entry.learning_rates):
            for value in rate.values:
                field = ("learning_rates", i, "source")
                yield from _locator(kb, method.id, field, rate.source, {".".join(map(str, field)): value})
    for record in (*kb.libraries.values(), *kb.trainers.values(), *kb.engines.values()):
        for keys, citation in record.citations():
            yield from _locator(kb, record.id, keys, citation, {})
    for trainer in kb.trainers.values():
        for method in trainer.methods:
            offer = trainer.offer(method)
            for name, key in offer.keys.items():
                field, source = ("methods", method, "keys", name), f"{str(offer.source).partition(':')[0]}:{key.key}"
                yield from _locator(kb, trainer.id, field, source, {".".join(field): key.default})


def _locator(
    kb: KnowledgeBase, record: str, keys: Iterable[str | int], citation: str, values: dict[str, Any]
) -> Iterator[Locator]:
    key, _, place = citation.partition("#")
    if place and key in kb.references and is_code(kb, key):
        file, _, symbol = place.partition(":")
        field = ".".join(map(str, keys))
        default = values.get(field)
        yield Locator(key, file, symbol, "" if default is None else str(default), f"{record}: {field}")


def is_code(kb: KnowledgeBase, key: str) -> bool:
    """Whether locators name files of code, and not published runs that stand in `evidence`."""
    return key in INSTALLED or (bool(commit_of(kb, key)) and not table(key).exists())


def table(key: str) -> Path:
    """The published runs of a record whose locators name them."""
    return ROOT / "evidence" / f"{key}.jsonl"


def commit_of(kb: KnowledgeBase, key: str) -> str:
    """The commit that a record names, as far as it names it."""
    return kb.references[key].commit


def has_symbol(text: str, symbol: str) -> bool:
    """Whether the parts of a dotted symbol stand in a file, each as a whole word."""
    parts = [part for part in re.split(r"[.\s]+|--", symbol.split("(")[0]) if part]
    return all(re.search(rf"(?<![\w]){re.escape(part)}(?![\w])", text) for part in parts)


def has_default(text: str, default: str) -> bool:
    """Whether a default stands in a file: the same number in any notation, or the same word."""
    if default in ("True", "False"):
        return re.search(rf"\b({default}|{default.lower()}|store_true|store_false)\b", text) is not None
    try:
        value = float(default)
    except ValueError:
        return " ".join(default.split()).lower() in " ".join(text.split()).lower()
    numbers = re.findall(r"(?<![\d.])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\d])", text.replace("_", ""))
    return any(float(number) == abs(value) for number in numbers)


def other_optimizers(text: str) -> list[str]:
    """Return the optimizers that a file of settings chooses, if AdamW or a variant of it is not among them."""
    chosen = {(found[1] or found[2]).lower() for found in OPTIMIZER.finditer(text)}
    return [] if any("adam" in name for name in chosen) else sorted(chosen & NOT_ADAM)


class Mirror:
    """One git directory at one commit."""

    def __init__(self, folder: Path, commit: str):
        self.folder = folder
        self.commit = self._git("rev-parse", f"{commit}^{{commit}}").strip()

    def blob(self, file: str) -> str:
        return self._git("rev-parse", f"{self.commit}:{file}").strip()

    def text(self, file: str) -> str:
        return self._git("show", f"{self.commit}:{file}")

    def _git(self, *words: str) -> str:
        asked = ["git", f"--git-dir={self.folder}", *words]
        done = subprocess.run(asked, check=True, capture_output=True, encoding="utf-8", errors="replace")
        return done.stdout


def look_up(kb: KnowledgeBase, mirrors: Path, before: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The lock of all citations, and what could not be found. What no mirror holds stays as it was looked up before."""
    lock: dict[str, Any] = {}
    problems: list[str] = []
    open_: dict[str, Mirror | None] = {}
    for one in locators(kb):
        if one.key in INSTALLED:
            continue
        if one.key not in open_:
            open_[one.key] = mirror_of(kb, mirrors, one.key, problems)
        mirror = open_[one.key]
        if mirror is None:
            if one.key in before:
                lock[one.key] = before[one.key]
            continue
        record = lock.setdefault(one.key, {"commit": mirror.commit, "files": {}})
        try:
            blob, text = mirror.blob(one.file), mirror.text(one.file)
        except subprocess.CalledProcessError:
            problems.append(f"{one.where}: {one.key} has no file {one.file}")
            continue
        file = record["files"].setdefault(one.file, {"blob": blob})
        if one.symbol:
            if has_symbol(text, one.symbol):
                file["symbols"] = sorted({*file.get("symbols", ()), one.symbol})
            else:
                problems.append(f"{one.where}: {one.key}#{one.file} has no {one.symbol}")
        if "learning_rates" in one.where and (chosen := other_optimizers(text)):
            file["optimizers"] = chosen
        if one.default:
            if has_default(text, one.default):
                file["defaults"] = sorted({*file.get("defaults", ()), one.default})
            else:
                problems.append(f"{one.where}: {one.key}#{one.file} has no {one.default}")
    return dict(sorted(lock.items())), problems


def mirror_of(kb: KnowledgeBase, mirrors: Path, key: str, problems: list[str]) -> Mirror | None:
    found = REPOSITORY.match(kb.references[key].fields.get("url", ""))
    folder = mirrors / f"{found[1]}+{found[2]}" / "repo" if found else None
    if found is None or folder is None or not folder.is_dir():
        problems.append(f"{key}: no mirror of {kb.references[key].fields.get('url', 'no url')}")
        return None
    try:
        return Mirror(folder, commit_of(kb, key))
    except subprocess.CalledProcessError:
        problems.append(f"{key}: {found[1]}/{found[2]} has no commit {commit_of(kb, key)}")
        return None


def main() -> None:
    kb = peftonomy.load(ROOT)
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    lock, problems = look_up(kb, Path(sys.argv[1]), before)
    FILE.write_text(json.dumps(lock, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(sorted(problems)))
    print(f"{sum(len(record['files']) for record in lock.values())} files of {len(lock)} repositories")


if __name__ == "__main__":
    main()
