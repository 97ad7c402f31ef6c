"""Compare the predicted error of a merge into quantised weights with a measured one.

    python -m benchmarks.merging

Weights of three distributions are quantised, a low-rank update of four sizes is added, and the sum is quantised again.
The quantiser is our own, in numpy: bitsandbytes is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftonomy.serving.merging import SHARES
from peftonomy.serving.rounding import FORMATS, Rounded, rounded

__all__ = ["Case", "cases", "main", "quantised"]

SIZES = (0.01, 0.03, 0.1, 0.3)
"""The update's norm by that of the weights."""
WIDTH, RANK = 1024, 8


@dataclass(frozen=True)
class Case:
    """One merge: the measured error and part that is kept, and the prediction."""

    format: str
    weights: str
    rho: float
    error: float
    kept: float
    predicted: Rounded

    @property
    def difference(self) -> float:
        """The relative difference of the predicted error."""
        return self.predicted.error / self.error - 1


def quantised(weight: Any, name: str) -> Any:
    """Return a weight rounded to a format, with the scale of each block computed again."""
    form = FORMATS[name]
    blocks = weight.reshape(-1, form.size(weight.shape[1]))
    scales = np.abs(blocks).max(1, keepdims=True)
    codes = np.array(form.codes)
    nearest = np.searchsorted((codes[1:] + codes[:-1]) / 2, blocks / scales)
    return (codes[nearest] * scales).reshape(weight.shape)


def drawn(random: np.random.Generator) -> dict[str, Any]:
    """Return weights of each distribution."""
    normal = random.standard_normal((WIDTH, WIDTH))
    outliers = normal * np.where(random.random((WIDTH, WIDTH)) < 0.001, 8, 1)
    return {"normal": normal, "t with 5 degrees": random.standard_t(5, (WIDTH, WIDTH)), "with outliers": outliers}


def cases(seed: int = 0) -> Iterator[Case]:
    """Yield each case."""
    random = np.random.default_rng(seed)
    for kind, weight in drawn(random).items():
        for name, form in FORMATS.items():
            held = quantised(weight, name)
            size, length = form.size(WIDTH), np.linalg.norm(held)
            largest = np.sort(np.abs(held.reshape(-1, size)).max(1)) * WIDTH / length
            scales = tuple(float(part.mean()) for part in np.array_split(largest, SHARES))
            for rho in SIZES:
                update = random.standard_normal((WIDTH, RANK)) @ random.standard_normal((RANK, WIDTH))
                update *= rho * length / np.linalg.norm(update)
                change = quantised(held + update, name) - held
                error = np.linalg.norm(change - update) / np.linalg.norm(update)
                kept = float((change * update).sum() / (update * update).sum())
                yield Case(name, kind, rho, float(error), kept, rounded(name, scales, size, rho))


def main() -> None:
    """Print a table of all cases."""
    print("| format | weights | update | error | predicted | kept | predicted |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    found = list(cases())
    for one in found:
        print(
            f"| {one.format} | {one.weights} | {one.rho} | {one.error:.3f} | {one.predicted.error:.3f} | "
            f"{one.kept:.3f} | {one.predicted.kept:.3f} |"
        )
    near = sum(abs(one.difference) < 0.1 for one in found)
    worst = max(found, key=lambda one: abs(one.difference))
    print(f"\n{near} of {len(found)} errors within 10 %, the worst {worst.difference:+.1%}.")


if __name__ == "__main__":
    main()
