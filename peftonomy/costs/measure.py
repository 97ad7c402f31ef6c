"""The sizes of one tensor at a location: all its formulas compiled together, once, over numbers and over arrays.

This module knows no model: the dimensions of the model (`common`) and of the location (`local`) are arguments of each
call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..formula import Formula
from ..schema.method import MethodEntry
from ..schema.names import BLOCKS, DIMS, LOCAL
from ..schema.tensors import Moved, Tensor

__all__ = ["HELD", "Measure", "measure", "measures"]

HELD = ("values", "indices", "bits", "shared")
"""The kinds of stored values of a tensor, in a task's checkpoint or (shared) beside it."""
ONE, NUMEL = Formula.parse(1), Formula.parse("numel")


@dataclass(frozen=True)
class Measure:
    """A tensor's formulas as functions of `(common, local, *hyperparameters)`, compiled once.

    wanted: the computed formulas: count, copies, and those to which `trained` and `held` refer. trained: the index of
    the number of updated entries in `wanted`; None if there are none. held: each stored kind with the index of its
    number; columns: the same, with each kind as its index in HELD. exists, requires: conditions. names: dimensions in
    which locations may differ. by_layer: whether a formula names the layer. layered: whether only `exists` does, so
    that all layers in which it holds are equal. everywhere: whether the tensor acts on every targeted module. across:
    counts over all locations together, each as the ledger or kind and its formula. spread: two tensors with equal
    `spread` have the same locations on the same targets. sizes: the values of `wanted`; None if the tensor does not
    exist, False if its requirement does not hold.
    """

    tensor: Tensor
    hyperparameters: tuple[str, ...]
    wanted: tuple[Formula, ...]
    trained: int | None
    held: tuple[tuple[str, int], ...]
    columns: tuple[tuple[int, int], ...]
    exists: Formula | None
    requires: Formula | None
    names: tuple[str, ...]
    by_layer: bool
    layered: bool
    everywhere: bool
    across: list[tuple[str, Formula]]
    spread: tuple[Any, ...]
    local: frozenset[str]
    sizes: Callable[..., Any]

    @property
    def words(self) -> list[str]:
        """The name of each of `wanted` in messages."""
        rest = ["stored"] * (len(self.wanted) - 2)
        if self.trained:
            rest[0] = "trained"
        return ["its size", "copies", *rest]

    @cached_property
    def arrays(self) -> Callable[..., Any]:
        """Over arrays: the truth of the requirement, and the values of `wanted`."""
        return Formula.together_numpy([self.requires or ONE, *self.wanted], self.hyperparameters, self.local)

    @cached_property
    def there(self) -> Callable[..., Any]:
        """A function of `(common, local, layer, *hyperparameters)`: the 1-tuple of whether the tensor exists there."""
        return Formula.together([self.exists or ONE], ("layer", *self.hyperparameters), self.local)

    @cached_property
    def there_arrays(self) -> Callable[..., Any]:
        """The same function as `there`, over arrays."""
        return Formula.together_numpy([self.exists or ONE], ("layer", *self.hyperparameters), self.local)

    @cached_property
    def shape(self) -> Callable[..., Any]:
        """The values of the declared shape."""
        return Formula.together(self.tensor.shape or [], self.hyperparameters, self.local)


def measures(entry: MethodEntry) -> dict[str, Measure]:
    """Return the measure of each of an entry's tensors."""
    names = tuple(entry.hyperparameters)
    return {name: measure(tensor, names) for name, tensor in entry.tensors.items()}


def measure(tensor: Tensor, hyperparameters: Sequence[str]) -> Measure:
    """Return the measure of a tensor whose entry has these hyperparameters."""
    selecting, names = tensor.selecting, tuple(hyperparameters)
    wanted = [_count(tensor, selecting), tensor.copies]
    trained = 0 if isinstance(tensor.trained, Moved) or tensor.trained is True else None
    if isinstance(tensor.trained, Formula):
        trained = len(wanted)
        wanted.append(tensor.trained)
    held: list[tuple[str, int]] = []
    for part in tensor.stored:
        if part.across is None and part.as_ in HELD:
            held.append((part.as_, 0 if part.count is None else len(wanted)))
            wanted += [] if part.count is None else [part.count]
    exists, requires = tensor.if_, tensor.requires
    formulas = [*wanted, *(tensor.shape or []), *[f for f in (exists, requires) if f is not None]]
    named = frozenset[str]().union(*[formula.names for formula in formulas])
    by_layer = [formula for _, formula in tensor.formulas() if "layer" in formula.names]
    layered = by_layer == [exists]
    differ = tuple(sorted(named.difference(names, ("layer",) if layered else ())))
    roles = None if tensor.roles is None else tuple(tensor.roles)
    moved = [("trained", tensor.trained.across)] if isinstance(tensor.trained, Moved) else []
    local = LOCAL[tensor.per].union(DIMS, ("n_layers",)) if tensor.per in BLOCKS else LOCAL[tensor.per]
    both = ((None if layered else exists, None), (requires, False))
    conditions = [(formula, answer) for formula, answer in both if formula is not None]
    return Measure(
        tensor=tensor,
        hyperparameters=names,
        wanted=tuple(wanted),
        trained=trained,
        held=tuple(held),
        columns=tuple([(HELD.index(kind), at) for kind, at in held]),
        exists=exists,
        requires=requires,
        names=differ,
        by_layer=bool(by_layer),
        layered=layered,
        everywhere=tensor.per == "site" and tensor.roles is None and not by_layer,
        across=moved + [(part.as_, part.across) for part in tensor.stored if part.across is not None],
        spread=(tensor.per, roles, selecting, differ, bool(by_layer), layered),
        local=local,
        sizes=Formula.together(wanted, names, local, conditions),
    )


def _count(tensor: Tensor, selecting: bool) -> Formula:
    if selecting:
        return NUMEL
    return tensor.count or Formula.parse(" * ".join([f"({size.source})" for size in tensor.shape or []]) or "1")
