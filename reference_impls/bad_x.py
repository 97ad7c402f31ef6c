"""BAD-X: bilingual adapters improve zero-shot cross-lingual transfer (parovic2022badx).

    y <- T(B(y)),    B, T: y + W_up relu(W_down y + b_down) + b_up,    placed as in MAD-X

MAD-X with one adapter B for a pair of languages where that has one for each: it is trained on text of both, in turns
(`batches`), the task adapter T is trained on it in the source language, and both are used in the target language,
with nothing exchanged. Trained: in phase `language` B (pair_bottleneck wide), in phase `task` T. At inference both
remain. It trades modules that fit together freely for one that fits its pair.

By default there is no invertible adapter.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TypeVar

from torch import nn

from . import mad_x
from .mad_x import probe

__all__ = ["apply", "batches", "probe"]

Batch = TypeVar("Batch")


def apply(
    model: nn.Module, *, pair_bottleneck: int, task_bottleneck: int, invertible: bool = False, invertible_width: int,
    phase: str = "task", name: str = "bad_x",
) -> nn.Module:
    """Freeze the model and put in what one phase needs; only that phase's part is trained."""
    return mad_x.apply(
        model, language_bottleneck=pair_bottleneck, task_bottleneck=task_bottleneck, invertible=invertible,
        invertible_width=invertible_width, phase=phase, name=f"{name}.pair",
    )


def batches(source: Sequence[Batch], target: Sequence[Batch], *, ratio: int = 1, steps: int) -> list[Batch]:
    """What the pair's adapter is trained on: `ratio` batches of the source language, then one of the target, in turns.

    A corpus that ends begins again, so the smaller one is seen more often.
    """
    turns = cycle([iter(cycle(source))] * ratio + [iter(cycle(target))])
    return [next(turn) for turn in islice(turns, steps)]
