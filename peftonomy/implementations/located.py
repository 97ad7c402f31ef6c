"""Locate the reference implementations: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["FOLDER", "module"]

INSIDE = Path(__file__).parents[1] / "reference_impls"
FOLDER = INSIDE if INSIDE.is_dir() else INSIDE.parents[1] / "reference_impls"
PACKAGE = "peftonomy.reference_impls" if INSIDE.is_dir() else "reference_impls"


def module(name: str) -> ModuleType:
    """Import a reference implementation, or one of their helpers, by name. Raises ImportError without torch."""
    return importlib.import_module(f"{PACKAGE}.{name}")
