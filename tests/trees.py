"""Copies of the data that a test may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

MODELS = ("roberta_base", "t5_base")


def small_tree(root: Path, target: Path, *methods: str) -> Path:
    """A copy of the data with some of the methods and models."""
    shutil.copytree(root / "taxonomy", target / "taxonomy")
    lists = "lists:\n  recent: {name: Recent, meaning: Not from before the year 2000., where: year >= 2000}\n"
    (target / "taxonomy" / "lists.yaml").write_text(lists)  # conditions may only name what some entry has
    copied = [*(f"methods/{m}.yaml" for m in methods), *(f"reference_impls/{m}.py" for m in methods)]
    for path in (*copied, *(f"backbones/models/{m}.yaml" for m in MODELS)):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, target / path)
    for name in ("backbones/families", "backbones/operations.yaml", "site", "mkdocs.yml"):
        (target / name).symlink_to(root / name)
    return target
