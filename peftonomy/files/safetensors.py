"""Read tensors of a safetensors file with numpy, one at a time and without torch.

The library `safetensors` gives numpy no bfloat16, in which most checkpoints are stored. The format is a header of JSON
behind its length in 8 bytes, and then the values.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import DataError, Problem, UsageError, shown

__all__ = ["Tensors"]

HEADER = 100_000_000
"""The longest header that the format allows."""
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
READ = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Tensors:
    """The floating-point tensors of one file, by name. Raises DataError for a file of another form."""

    def __init__(self, path: Path):
        self.path = path
        try:
            import numpy  # noqa: F401
        except ImportError:
            raise UsageError("reading tensors needs numpy: pip install 'peftonomy[notebook]'") from None
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if self.size < 8 or not 2 <= length <= min(HEADER, self.size - 8):
                    raise self._wrong(f"a file of {self.size:,} bytes with a header of {length:,}")
                header = json.loads(file.read(length))
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from None
        except (ValueError, RecursionError):
            raise self._wrong("a header that is no JSON") from None
        self._start = 8 + length
        self._held: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        end = 0
        for name, one in header.items() if isinstance(header, dict) else ():
            if name != "__metadata__":
                self._held[name] = self._described(name, one)
        if not self._held:
            raise self._wrong("no tensor")
        for name, (_, _, start, stop) in sorted(self._held.items(), key=lambda item: item[1][2:]):
            if start != end:
                raise self._wrong(f"{shown(name)} from byte {start:,}, after one that ends at {end:,}")
            end = stop
        if end != self.size - self._start:
            raise self._wrong(f"{self.size - self._start:,} bytes of values, of which tensors take {end:,}")

    def _wrong(self, found: str) -> DataError:
        return DataError([Problem(str(self.path), 0, "", found, "a safetensors file")])

    def _described(self, name: str, one: Any) -> tuple[str, tuple[int, ...], int, int]:
        """Return the type, the shape and the offsets of a tensor."""
        try:
            kind, shape, (start, stop) = one["dtype"], tuple(one["shape"]), one["data_offsets"]
            sound = all(type(n) is int and n >= 0 for n in (*shape, start, stop)) and stop <= self.size - self._start
            sound = sound and (kind not in WIDTH or stop - start == WIDTH[kind] * math.prod(shape))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound or not isinstance(kind, str):
            expected = "a type, a shape and offsets of a safetensors file"
            raise DataError([Problem(str(self.path), 0, name, shown(one), expected)])
        return kind, shape, start, stop

    @property
    def names(self) -> list[str]:
        """The names in the file's order."""
        return list(self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._held[name][1]

    def read(self, name: str) -> Any:
        """Return a tensor as a numpy array in float32 (float64 stays)."""
        import numpy as np

        kind, shape, start, _ = self._held[name]
        if kind not in WIDTH:
            raise DataError([Problem(str(self.path), 0, shown(name), kind, f"one of {', '.join(WIDTH)}")])
        count = math.prod(shape)
        with self.path.open("rb") as file:
            file.seek(self._start + start)
            values = np.frombuffer(file.read(count * WIDTH[kind]), READ[kind])
        if kind == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        with np.errstate(all="ignore"):  # a signalling NaN warns
            return values.reshape(shape) if kind == "F64" else values.astype("<f4").reshape(shape)
