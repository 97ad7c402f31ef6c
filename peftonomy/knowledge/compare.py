"""Several methods on one model, and which settings apply to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..costs.table import Table, axes, label
from ..errors import UnknownName, chosen

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..costs.cost import Cost

__all__ = ["Costs", "check_settings", "compared", "hyperparameter_names", "own_settings"]

PLACE = ("targets", "target_modules")
"""Arguments that a method without targets does not take."""
PLOTTED = ("trained", "stored", "stored_bytes", "served", "percent")


class Costs(Table):
    """The costs of several methods on one model, as a table with a row for each method."""

    def __init__(self, costs: Sequence[Cost]):
        self.costs = list(costs)
        model = self.costs[0].model if self.costs else ""
        super().__init__([_row(cost) for cost in self.costs], f"{len(self.costs)} methods on {model}")

    def plot(self, ledger: str = "trained", *, ax: Any = None) -> Any:
        """Draw a bar for each method and return the matplotlib axes (needs the notebook extra).

        ledger: trained, stored, stored_bytes, served or percent. ax: the axes to draw on. Raises UsageError.
        """
        chosen("ledger", ledger, dict.fromkeys(PLOTTED))
        ax = axes(ax)
        ax.barh([cost.method for cost in self.costs], [getattr(cost, ledger) for cost in self.costs])
        ax.invert_yaxis()
        label(ax, "x", ledger)
        ax.set_title(self.caption)
        return ax


def _row(cost: Cost) -> dict[str, Any]:
    settings = ", ".join(f"{name} = {value}" for name, value in cost.hyperparameters.items())
    return {"method": cost.method, **{name: getattr(cost, name) for name in PLOTTED}, "settings": settings}


def compared(
    methods: Sequence[MethodRecord], place: Mapping[str, Any], settings: Mapping[str, Any], dtype: str
) -> list[Cost]:
    """Return the cost of each method. A setting applies to every method that has it. Raises PeftonomyError.

    place: the arguments of `Method.plan`. settings: values by `name`, or by `method.name` for one method.
    """
    check_settings(methods, settings)
    without = {**place, **dict.fromkeys(PLACE)}
    plans = [m.plan(**(place if m.entry.targets is not None else without)) for m in methods]
    return [plan.cost(own_settings(m, settings), dtype) for m, plan in zip(methods, plans, strict=True)]


def check_settings(methods: Sequence[MethodRecord], settings: Mapping[str, Any]) -> None:
    """Raise UnknownName for a setting that none of the methods has."""
    for name in settings:
        if not any(_knows(m, name) for m in methods):
            known = {n for m in methods for n in hyperparameter_names(m)}
            raise UnknownName("hyperparameter", name, known, "of these methods")


def _knows(method: MethodRecord, name: str) -> bool:
    """Return True if a setting, `name` or `method.name`, applies to the method."""
    prefix, _, bare = name.rpartition(".")
    return prefix in ("", method.id) and bare in hyperparameter_names(method)


def own_settings(method: MethodRecord, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that apply to a method; `method.name` takes precedence over `name`."""
    others = method.entry.alternative_names
    known = {name: name.rpartition(".")[2] for name in settings if _knows(method, name)}
    own = {bare: settings[name] for name, bare in known.items() if name != bare}
    taken = {others.get(bare, bare) for bare in own}
    return own | {n: settings[n] for n, bare in known.items() if n == bare and others.get(n, n) not in taken}


def hyperparameter_names(method: MethodRecord) -> set[str]:
    """Return the names of a method's hyperparameters, with those that libraries give them."""
    return {*method.entry.hyperparameters, *method.entry.alternative_names}
