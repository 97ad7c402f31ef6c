"""Which modules pytest reads: those with tests, and those with examples in their docstrings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave modules without tests and examples unread, and with `-m "not torch and ..."` those that need torch.

    Pytest would import every module to look for examples. A module needs torch if its own mark or an import says so.
    """
    if collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    if not collection_path.name.startswith("test_") and ">>> " not in text:
        return True
    left_out = re.findall(r"not (\w+)", config.option.markexpr) if " or " not in config.option.markexpr else []
    marks = re.search(r"^pytestmark = (\[.*?^\]|[^\n]*)", text, re.MULTILINE | re.DOTALL)
    excluded = marks is not None and any(f"mark.{name}" in marks[1] for name in left_out)
    imports = "torch" in left_out and re.search(r"^(import|from) (torch|reference_impls)\b", text, re.MULTILINE)
    return True if excluded or imports else None
