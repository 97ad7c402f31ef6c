"""What one tensor measures at a place: all its formulas compiled together, once, over numbers and over arrays.

Nothing here knows a model: the dimensions of the model (`common`) and of the place (`local`) come with each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..formula import Formula
from ..schema.family import DIMS
from ..schema.method import OF_PARAMETERS, Moved, Tensor

__all__ = ["BLOCKS", "HELD", "LOCAL", "OF_STEP", "Measure", "measure"]

HELD = ("values", "indices", "bits", "shared")
"""What has to be held of a tensor, in a task's checkpoint or (shared) beside it."""
BLOCKS = ("attention", "mlp", "layer")
"""Scopes whose places are parts of every layer."""
LOCAL: dict[str, frozenset[str]] = {
    "site": frozenset({"d_in", "d_out", "bias", "layer"}),
    "role": frozenset({"d_in", "d_out", "n_sharing"}),
    "model": frozenset(),
    **dict.fromkeys(BLOCKS, frozenset({"layer", "cross"})),
    **dict.fromkeys(OF_PARAMETERS, frozenset({"numel", "layer"})),
}
"""Dimensions that a formula may name besides the model's, by the scope of its tensor."""
OF_STEP = frozenset({"tokens", "seq", "outputs", "post_norm"})
"""Dimensions of a training step, which formulas of memory may name: tokens of a batch, and of a sequence; what the
language model's head gives out for a token, 0 without one; and whether norms stand behind the residual sums."""

ONE, NUMEL = Formula.parse(1), Formula.parse("numel")


@dataclass(frozen=True)
class Measure:
    """A tensor's formulas as functions of `(common, local, *hyperparameters)`.

    wanted: what is computed: count, copies, and what else `trained` and `held` point at. trained: where in it the
    number of moved entries stands, None where none are. held: each kind of what is held, with where its number stands.
    exists, requires: conditions. names: dimensions in which places may differ. by_layer: whether a formula names the
    layer; layered: whether only `exists` does, so that the layers are alike where it holds.
    """

    tensor: Tensor
    hyperparameters: tuple[str, ...]
    wanted: tuple[Formula, ...]
    trained: int | None
    held: tuple[tuple[str, int], ...]
    exists: Formula | None
    requires: Formula | None
    names: tuple[str, ...]
    by_layer: bool
    layered: bool

    @property
    def everywhere(self) -> bool:
        """Whether it acts on every targeted module."""
        return self.tensor.per == "site" and self.tensor.roles is None and not self.by_layer

    @cached_property
    def across(self) -> list[tuple[str, Formula]]:
        """What is counted over all places together: the ledger or kind, and its formula."""
        moved = [("trained", self.tensor.trained.across)] if isinstance(self.tensor.trained, Moved) else []
        return moved + [(part.as_, part.across) for part in self.tensor.stored if part.across is not None]

    @cached_property
    def spread(self) -> tuple[Any, ...]:
        """What decides, with the targets, at which places of a model the tensor is, and which of these are alike."""
        roles = None if self.tensor.roles is None else tuple(self.tensor.roles)
        return self.tensor.per, roles, self.tensor.selecting, self.names, self.by_layer, self.layered

    @cached_property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """As `held`, but each kind by its number in HELD."""
        return tuple((HELD.index(kind), at) for kind, at in self.held)

    @property
    def words(self) -> list[str]:
        """What messages call each of `wanted`."""
        rest = ["stored"] * (len(self.wanted) - 2)
        if self.trained:
            rest[0] = "trained"
        return ["its size", "copies", *rest]

    @cached_property
    def local(self) -> frozenset[str]:
        """The names that are found at the place: in a block also the sizes, which may be its stack's own."""
        local = LOCAL[self.tensor.per]
        return local.union(DIMS, ("n_layers",)) if self.tensor.per in BLOCKS else local

    @cached_property
    def sizes(self) -> Callable[..., Any]:
        """The values of `wanted`, None where the tensor does not exist, False where what it requires does not hold."""
        both = ((None if self.layered else self.exists, None), (self.requires, False))
        conditions = [(formula, answer) for formula, answer in both if formula is not None]
        return Formula.together(self.wanted, self.hyperparameters, self.local, conditions)

    @cached_property
    def arrays(self) -> Callable[..., Any]:
        """Over arrays: whether what it requires holds, and the values of `wanted`."""
        return Formula.together_numpy([self.requires or ONE, *self.wanted], self.hyperparameters, self.local)

    @cached_property
    def there(self) -> Callable[..., Any]:
        """Of `(common, local, layer, *hyperparameters)`: whether it exists in that layer, as a tuple of one."""
        return Formula.together([self.exists or ONE], ("layer", *self.hyperparameters), self.local)

    @cached_property
    def there_arrays(self) -> Callable[..., Any]:
        """As `there`, over arrays."""
        return Formula.together_numpy([self.exists or ONE], ("layer", *self.hyperparameters), self.local)

    @cached_property
    def shape(self) -> Callable[..., Any]:
        """The values of the declared shape."""
        return Formula.together(self.tensor.shape or [], self.hyperparameters, self.local)


def measure(tensor: Tensor, hyperparameters: Sequence[str]) -> Measure:
    """The measure of a tensor whose entry has these hyperparameters."""
    wanted = [_count(tensor), tensor.copies]
    trained = 0 if isinstance(tensor.trained, Moved) or tensor.trained is True else None
    if isinstance(tensor.trained, Formula):
        trained = len(wanted)
        wanted.append(tensor.trained)
    held: list[tuple[str, int]] = []
    for part in tensor.stored:
        if part.across is None and part.as_ in HELD:
            held.append((part.as_, 0 if part.count is None else len(wanted)))
            wanted += [] if part.count is None else [part.count]
    exists = _both(tensor.when, tensor.where)
    formulas = [*wanted, *(tensor.shape or []), *(f for f in (exists, tensor.requires) if f is not None)]
    named = frozenset[str]().union(*(formula.names for formula in formulas))
    by_layer = [formula for _, formula in tensor.formulas() if "layer" in formula.names]
    layered = by_layer == [tensor.where]
    return Measure(
        tensor, tuple(hyperparameters), tuple(wanted), trained, tuple(held), exists, tensor.requires,
        tuple(sorted(named.difference(hyperparameters, ("layer",) if layered else ()))), bool(by_layer), layered,
    )  # fmt: skip


def _count(tensor: Tensor) -> Formula:
    if tensor.selecting:
        return NUMEL
    return tensor.count or Formula.parse(" * ".join(f"({size.source})" for size in tensor.shape or []) or "1")


def _both(a: Formula | None, b: Formula | None) -> Formula | None:
    if a is None or b is None:
        return a or b
    return Formula.parse(f"({a.source}) and ({b.source})")
