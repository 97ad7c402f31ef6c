"""Read the memory of a GPU from its name or from a size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ..errors import UsageError, near, shown

if TYPE_CHECKING:
    from ..schema.gpus import Gpu

__all__ = ["gpu_bytes", "gpu_memory", "gpu_named"]

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
BRANDS = {"nvidia", "geforce", "tesla", "quadro", "amd", "radeon", "instinct", "gpu", "rtx", "gtx", "rx"}
"""Words of a name that may be left out."""
SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)")


def gpu_bytes(text: str) -> int:
    """Return a size such as `24GiB` or `80GB` in bytes. Raises UsageError.

    >>> gpu_bytes("24GiB"), gpu_bytes("80 GB")
    (25769803776, 80000000000)
    """
    found = SIZE.fullmatch(text.strip())
    if found is None or found[2].lower() not in UNITS or float(found[1]) <= 0:
        raise UsageError(f"gpu: found {shown(text)!r}; expected a size such as 24GiB or 80GB")
    return int(Fraction(found[1]) * UNITS[found[2].lower()])


def gpu_memory(gpus: Sequence[Gpu], text: str) -> int:
    """Return the bytes of a GPU that is given by its name or by a size with a unit. Raises UsageError."""
    found = SIZE.fullmatch(text.strip())
    if found is not None and found[2].lower() in UNITS and not _matches(gpus, text):
        if not found[2]:
            raise UsageError(f"gpu: found {shown(text)!r} without a unit; expected a size such as {shown(found[1])}GiB")
        return gpu_bytes(text)
    return gpu_named(gpus, text).mib * 2**20


def gpu_named(gpus: Sequence[Gpu], text: str) -> Gpu:
    """Return the GPU that a name means, whatever its case, brand and punctuation. Raises UsageError."""
    found = _matches(gpus, text)
    if len({g.mib for g in found}) == 1:
        return found[0]
    if found:
        raise UsageError(f"gpu: {shown(text)!r} may be {' or '.join(g.name for g in found)}; name one of them")
    close = near(text, [name for g in gpus for name in (g.name, *g.aliases)])
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(f"gpu: found {shown(text)!r}; expected a size such as 24GiB, or a GPU such as A100 80GB{hint}")


def _matches(gpus: Iterable[Gpu], text: str) -> list[Gpu]:
    """Return the GPUs of this name; else those whose name it contains, the longest; else those that contain it."""
    asked = _words(text)
    if not asked:
        return []
    names = [(_words(name), g) for g in gpus for name in (g.name, *g.aliases)]
    if exact := [g for words, g in names if words == asked]:
        return exact
    inside = [(len(words), g) for words, g in names if words < asked]
    if inside:
        return [g for n, g in inside if n == max(inside, key=lambda pair: pair[0])[0]]
    return [g for words, g in names if asked < words]


def _words(text: str) -> frozenset[str]:
    """Return the words of a name, without brands: `NVIDIA A100-SXM4-80GB` has a100, sxm4 and 80gb.

    A size alone is no name.
    """
    joined = re.sub(r"(\d)\s*(?:gib|gb|g)\b", r"\1gb", text.lower())
    words = frozenset(re.findall(r"[a-z0-9]+", joined)) - BRANDS
    return words if any(not re.fullmatch("[0-9]*gb", word) for word in words) else frozenset()
