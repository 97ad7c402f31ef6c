"""Intervals, paired tests and groups for answers of several seeds on the same examples.

The answers of an arm are a matrix of seeds and examples, 1 for a right answer. Both are a sample: another seed would
train another model, and other examples would ask other questions. So both count as sources of chance, and the arms are
compared pair by pair on the same seeds and examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Answers = NDArray[np.float64]

__all__ = ["LEVEL", "Difference", "bootstrap", "groups", "holm", "paired", "surpasses"]

RESAMPLES = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its 95 % interval, and the probability of one as large if there were none."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap(answers: Answers) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by drawing seeds and examples again with replacement.

    >>> bootstrap(np.ones((3, 50)))
    (1.0, 1.0)
    """
    rng, (seeds, examples) = np.random.default_rng(0), answers.shape
    first = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    second = rng.multinomial(examples, np.full(examples, 1 / examples), RESAMPLES)
    means = (first @ answers * second).sum(axis=1) / answers.size
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def paired(a: Answers, b: Answers) -> Difference:
    """Compare two arms on the same seeds and examples, by a t test with seeds and examples as crossed random effects.

    The degrees of freedom are Satterthwaite's. If the seeds differ much, they are few, and only a large difference
    is found.
    """
    d = a - b
    seeds, examples = d.shape
    mean = float(d.mean())
    by_seed, by_example = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True)
    free = seeds - 1, examples - 1, (seeds - 1) * (examples - 1)
    squares = (
        examples * float(((by_seed - mean) ** 2).sum()) / free[0],
        seeds * float(((by_example - mean) ** 2).sum()) / free[1],
        float(((d - by_seed - by_example + mean) ** 2).sum()) / free[2],
    )
    of_seeds, of_examples, rest = max(squares[0], squares[2]), max(squares[1], squares[2]), squares[2]
    total = of_seeds + of_examples - rest
    if total <= 0:  # all differences are equal
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    parts = [(m, f) for m, f in zip(squares, free, strict=True) if m > 0]
    freedom = max(total**2 / sum(m**2 / f for m, f in parts), 1.0)
    error = (total / d.size) ** 0.5
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - reach, mean + reach, min(p, 1.0))


def surpasses(a: Answers, b: Answers) -> bool:
    """Return True if each seed of `a` has more right answers than that of `b`, by more than the examples' chance.

    This is about these trained models, and not about other seeds as in `paired`.
    """
    d = (a - b).mean(axis=0)
    if not (a.mean(axis=1) > b.mean(axis=1)).all():
        return False
    error = float(d.std(ddof=1)) / len(d) ** 0.5
    return error == 0 or bool(stats.t.sf(float(d.mean()) / error, len(d) - 1) < LEVEL)


def holm(p: Sequence[float]) -> list[float]:
    """Return the probabilities after Holm's correction for several comparisons, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, most = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        most = max(most, min(1.0, (len(p) - rank) * p[index]))
        found[index] = most
    return found


def groups(answers: Mapping[str, Answers]) -> dict[str, int]:
    """Number the groups of arms, 1 for the best.

    The best arm that has no group leads the next one, which takes in every arm that cannot be told apart from it.
    """
    left = sorted(answers, key=lambda name: (-float(answers[name].mean()), name))
    found: dict[str, int] = {}
    while left:
        leader, others = left[0], left[1:]
        apart = holm([paired(answers[leader], answers[name]).p for name in others])
        members = {leader} | {name for name, p in zip(others, apart, strict=True) if p >= LEVEL}
        found |= dict.fromkeys((name for name in left if name in members), max(found.values(), default=0) + 1)
        left = [name for name in left if name not in members]
    return found
