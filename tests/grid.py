"""The cases that CI runs: a seeded sample of a grid, or the whole grid with GRID=whole (`make grid`)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
WHOLE = os.environ.get("GRID") == "whole"


def drawn(seed: str, cases: Iterable[T], number: int) -> list[T]:
    """Return so many of the cases, drawn by the seed and in their order; all of them with GRID=whole."""
    every = list(cases)
    chosen = range(len(every)) if WHOLE else random.Random(seed).sample(range(len(every)), min(number, len(every)))
    return [every[i] for i in sorted(chosen)]
