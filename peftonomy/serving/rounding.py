"""Predict what rounding leaves of an update that is merged into quantised weights.

Quantised weights lie on points of a grid: each block of weights has a scale, its largest absolute value, and a weight
is the scale times a code. A merge adds the update, computes the scale again, and rounds to the nearest code. An update
below half the distance of two codes changes no code, so it is lost. Only the largest weight of a block keeps its own
update, since it becomes the scale.

The prediction treats the update as normal with the standard deviation `rho` times that of the weights, and the weights
as normal with the largest value of a block at `scale` standard deviations. There is no fitted constant.

- The new scale differs from the old one by the update of the largest weight. Relative to the new grid, a weight with
  the code c has moved by a normal variable with the variance s^2 (1 + c^2), where s^2 is that of the update.
- A large update makes the scale grow: its own largest value in a block adds to that of the weights, as for independent
  normal variables.
- The error is the part of this move that rounding removes.
- The kept part is the projection of the change of the rounded weights on the update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

__all__ = ["FORMATS", "Format", "Rounded", "gaussian_scale", "rounded"]

NORMAL = NormalDist()
OFFSET = 0.9677083
"""The quantile of the outermost codes of NF4, as bitsandbytes' `create_normal_map` sets it."""
GROUP = 16
"""Codes of an even grid that are treated together."""
FAR = 8
"""Standard deviations beyond which a normal variable is ignored."""


@dataclass(frozen=True, slots=True)
class Format:
    """A quantised format: its codes in ascending order, and the number of weights with one scale (0: a row)."""

    codes: tuple[float, ...]
    block: int
    even: bool = False
    """True if neighbouring codes all have the same distance."""

    def size(self, d_in: int) -> int:
        """Return the number of weights that share a scale."""
        return self.block or d_in


@dataclass(frozen=True, slots=True)
class Rounded:
    """The result of a merge: the error relative to the update's norm, and the part of the update that remains."""

    error: float
    kept: float

    @property
    def verdict(self) -> str:
        """`lost`: less than a tenth of the update remains. `kept`: more than nine tenths. Otherwise `partly`."""
        return "lost" if self.kept < 0.1 else "kept" if self.kept > 0.9 else "partly"


def _normal_codes() -> tuple[float, ...]:
    """Return the codes of NF4: quantiles of the normal distribution, with an exact zero."""
    above = [NORMAL.inv_cdf(OFFSET + (0.5 - OFFSET) * i / 8) for i in range(8)]
    below = [-NORMAL.inv_cdf(OFFSET + (0.5 - OFFSET) * i / 7) for i in range(7)]
    codes = sorted([*below, 0.0, *above])
    return tuple(code / codes[-1] for code in codes)


FORMATS = {"nf4": Format(_normal_codes(), 64), "int8": Format(tuple(k / 127 for k in range(-127, 128)), 0, even=True)}
"""NF4 with a scale for 64 weights, and 8-bit integers with a scale for each row of the weight."""


@lru_cache(maxsize=64)
def gaussian_scale(size: int) -> float:
    """Return the mean of the largest absolute value of `size` standard normal variables."""
    step, total, x = 0.002, 0.0, 0.0
    while x < FAR:  # the mean of a positive variable is the integral of its upper tail
        total += step * (1 - math.erf((x + step / 2) / math.sqrt(2)) ** size)
        x += step
    return total


def rounded(name: str, scales: Sequence[float], size: int, rho: float) -> Rounded:
    """Return what remains of an update.

    name: of the format. scales: the largest absolute weight of a block in standard deviations, for equal shares of the
    blocks. size: the weights of a block. rho: the norm of the update by that of the weights.
    """
    found = [_rounded(name, scale, size, rho) for scale in scales]
    mean = sum(one.error**2 for one in found) / len(found)
    return Rounded(math.sqrt(mean), sum(one.kept for one in found) / len(found))


@lru_cache(maxsize=4096)
def _rounded(name: str, scale: float, size: int, rho: float) -> Rounded:
    grid, even = FORMATS[name].codes, FORMATS[name].even
    width = math.hypot(scale, rho * gaussian_scale(size))
    points = [scale * code for code in grid]
    edges = [-math.inf, *((a + b) / 2 for a, b in pairwise(points)), math.inf]
    shares = [NORMAL.cdf(high) - NORMAL.cdf(low) for low, high in pairwise(edges)]
    squares = projected = 0.0
    for index, share, square in _gathered(grid, shares) if even else _each(grid, shares):
        spread, gap = rho * math.sqrt(1 + square), width * (grid[1] - grid[0])
        if even and spread > gap:  # then the rounded part is uniform: the next term is below exp(-2 pi^2)
            squares += share * gap * gap / 12
            projected += share * spread * spread / (1 + square)
            continue
        for low, high, jump in _steps(grid, index, width, spread):
            squares += share * _square(low, high, jump, spread)
            moved = jump * spread * (NORMAL.pdf(low / spread) - NORMAL.pdf(high / spread))
            projected += share * moved / (1 + square)
    alone = 1 / size
    kept = alone + (1 - alone) * projected / (rho * rho)
    return Rounded(math.sqrt((1 - alone) * squares) / rho, min(kept, 1.0))


def _each(grid: tuple[float, ...], shares: list[float]) -> Iterator[tuple[int, float, float]]:
    """Yield each code's index, its share of the weights and its square."""
    yield from ((index, share, grid[index] ** 2) for index, share in enumerate(shares))


def _gathered(grid: tuple[float, ...], shares: list[float]) -> Iterator[tuple[int, float, float]]:
    """Yield the same for groups of neighbouring codes, which differ in the square alone if all distances are equal."""
    for start in range(0, len(grid), GROUP):
        found = range(start, min(start + GROUP, len(grid)))
        share = sum(shares[i] for i in found)
        if share:
            yield start, share, sum(shares[i] * grid[i] ** 2 for i in found) / share


def _steps(grid: tuple[float, ...], index: int, width: float, spread: float) -> Iterator[tuple[float, float, float]]:
    """Yield the intervals of a move that round to one code each: their ends, and the distance of that code.

    The grid goes on beyond its ends with the distance of the last two codes, since the scale grows with the largest
    weight and cuts nothing off.
    """
    first, last = grid[1] - grid[0], grid[-1] - grid[-2]

    def at(i: int) -> float:
        if i < 0:
            return grid[0] + i * first
        return grid[i] if i < len(grid) else grid[-1] + (i - len(grid) + 1) * last

    here = grid[index]
    for direction in (1, -1):
        i, low = index, 0.0
        while low < FAR * spread:
            high = width * abs((at(i) + at(i + direction)) / 2 - here)
            jump = direction * width * abs(at(i) - here)
            yield (low, high, jump) if direction > 0 else (-high, -low, jump)
            i, low = i + direction, high


def _square(low: float, high: float, jump: float, spread: float) -> float:
    """Return the integral of (u - jump)^2 over low..high, for u normal with the standard deviation `spread`."""
    a, b, m = low / spread, high / spread, jump / spread
    mass = NORMAL.cdf(b) - NORMAL.cdf(a)
    second = mass + a * NORMAL.pdf(a) - b * NORMAL.pdf(b)
    first = NORMAL.pdf(a) - NORMAL.pdf(b)
    return spread * spread * (second - 2 * m * first + m * m * mass)
