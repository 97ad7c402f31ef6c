"""Permanent addresses of single facts inside a page. They depend on a fact's own words, not on its place in a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["deviations"]


def deviations(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the anchor of each deviation (`method`, `library`, `about`), in the order of the entry.

    Deviations of one method in one library about one subject are numbered from the second on.
    """
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = (row["method"], row["library"], row["about"])
        seen[key] += 1
        number = f"-{seen[key]}" if seen[key] > 1 else ""
        yield f"deviation-{row['library']}-{row['about']}{number}".replace("_", "-")
