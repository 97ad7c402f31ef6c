"""A knowledge base with as many methods as wanted: renamed copies of the entries there are.

A copy keeps its sources, its category and its relations to the entries it was copied with: relations and parts that
name a copied entry name the copy of the same round.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

__all__ = ["tree"]

PART = re.compile(r"\bmethod: (\w+)")
LINKED = ("backbones", "site", "mkdocs.yml")


def tree(root: Path, target: Path, methods: int) -> Path:
    """The data below `root` with `methods` methods, written below `target`."""
    for name in LINKED:
        (target / name).symlink_to(root / name)
    for name in ("taxonomy", "methods", "reference_impls"):
        shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    texts = {p.stem: p.read_text(encoding="utf-8") for p in sorted((root / "methods").glob("*.yaml"))}
    kept = _closed(texts, methods)
    for key in texts.keys() - kept:
        (target / "methods" / f"{key}.yaml").unlink()
    for number in range(len(texts), methods):
        turn, at = divmod(number, len(texts))
        key = list(texts)[at]
        text = _renamed(texts[key], f"_{turn}", f" {turn}", set(texts))
        (target / "methods" / f"{key}_{turn}.yaml").write_text(text, encoding="utf-8")
        code = root / "reference_impls" / f"{key}.py"
        if code.is_file():
            shutil.copy(code, target / "reference_impls" / f"{key}_{turn}.py")
    return target


def _closed(texts: dict[str, str], most: int) -> set[str]:
    """So many entries, from the first on, that each has the others which it names as parts."""
    kept: set[str] = set()
    for key in texts:
        needed, waiting = set(), [key]
        while waiting:
            needed.add(one := waiting.pop())
            waiting += {name for name in PART.findall(texts[one]) if name in texts} - needed
        if len(kept | needed) <= most:
            kept |= needed
    return kept


def _renamed(text: str, suffix: str, spoken: str, known: set[str]) -> str:
    text = re.sub(r"^id: (\w+)", rf"id: \g<1>{suffix}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^name: (.+?)\s*$", lambda m: f"name: {_with(m[1], spoken)}", text, count=1, flags=re.MULTILINE)
    return re.sub(r"(?<=target: )\w+", lambda m: m[0] + suffix if m[0] in known else m[0], text)


def _with(name: str, spoken: str) -> str:
    quote = name[-1] if name[0] == name[-1] and name[0] in "'\"" else ""
    return f"{name[:-1]}{spoken}{quote}" if quote else name + spoken
