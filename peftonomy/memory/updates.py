"""Find the parameters that a method's own rule updates, with the bytes that the rule takes.

A record of `updates` says for each parameter of the model, or for the method's own tensors at each location, what the
rule keeps between steps and what it takes for a while. The optimizer has no states for these parameters.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backbones.modules import Module
from ..costs.layout import Spot, spots
from ..costs.measure import Measure, measure
from ..errors import UsageError
from ..schema.memory import Update
from .machine import SINGLE
from .program import Place, Program

if TYPE_CHECKING:
    from ..costs.plan import Plan

__all__ = ["Ruled", "Taken", "own", "ruled", "taken"]


class Ruled(NamedTuple):
    """Equal parameters that a rule updates: their module, its layers (None: it is in no stack), and their number.

    states: the bytes that the rule keeps for each of them. temporary: those that it takes while it updates one.
    together: those that it takes for each while it updates all.
    """

    module: Module
    suffix: str
    layers: frozenset[int] | None
    number: int
    states: Any
    temporary: Any
    together: Any


class Taken(NamedTuple):
    """Equal locations at which a rule updates the method's own tensors, and their number. For the bytes see `Ruled`."""

    number: int
    states: Any
    temporary: Any
    together: Any


def own(plan: Plan) -> frozenset[tuple[int, str]]:
    """Return the tensors of the method that its own rules update, each as the number of its part and its name."""
    return frozenset((part, name) for part, update, *_ in _records(plan) for name in update.tensors)


def taken(program: Program, values: Mapping[str, Any], width: int, arrived: Container[Place]) -> list[Taken]:
    """Return the locations at which the method's own rules update its tensors.

    width: bytes of one trained parameter. arrived: the keys of the tensors that received a gradient.
    """
    plan, found = program.plan, list[Taken]()
    records = [record for record in _records(plan) if record[1].tensors]
    arguments = plan.arguments(dict(values)) if records else []
    common = plan.common | {"width": width}
    for part, update, measured, places in records:
        args = arguments[part]
        for spot in places:
            if not any(program.key_of(part, name, measured.tensor.per, spot) in arrived for name in update.tensors):
                continue
            number = spot.n
            if measured.layered:
                number = sum(measured.there(common, spot.dims, n, *args)[0] for n in spot.layers)
            sizes = measured.sizes(common, spot.dims, *args)
            if sizes is not None and number:
                states, together, temporary = sizes
                found.append(Taken(number, states, temporary, together))
    return found


def ruled(program: Program, values: Mapping[str, Any], width: int) -> list[Ruled]:
    """Return the model's parameters that the method's own rules update. width: bytes of one trained parameter."""
    plan = program.plan
    records = [record for record in _records(plan) if not record[1].tensors]
    if not records:
        return []
    arguments = plan.arguments(dict(values))
    found: dict[tuple[str, str, int], Ruled] = {}
    for part, _, measured, places in records:
        for one in _found(program, measured, places, arguments[part], width):
            for layer in one.layers or (-1,):
                if found.setdefault((one.module.path, one.suffix, layer), one) is not one:
                    raise UsageError(f"{plan.id}: two of its updates change {one.module.path}.{one.suffix}")
    return list({id(one): one for one in found.values()}.values())


def _records(plan: Plan) -> Sequence[tuple[int, Update, Measure, Sequence[Spot]]]:
    """Return every record of updates with the number of its part and its spots. They suit all hyperparameters."""
    if "updates" not in plan.memo:
        plan.memo["updates"] = [
            (index, update, measured, tuple(spots(measured, plan.inventory, plan.sites[index])))
            for index, part in enumerate(plan.parts)
            for update in (part.entry.memory.updates if part.entry.memory is not None else ())
            for measured in [measure(update.tensor(), tuple(part.entry.hyperparameters))]
        ]
    records: Sequence[tuple[int, Update, Measure, Sequence[Spot]]] = plan.memo["updates"]
    return records


def _found(
    program: Program, measured: Measure, places: Sequence[Spot], args: tuple[Any, ...], width: int
) -> Iterator[Ruled]:
    operations = program.model.operations
    for spot in places:
        module = spot.source
        assert isinstance(module, Module)
        common = program.plan.common | {"width": SINGLE if module.role in operations.float32 else width}
        layers = frozenset(n for n in spot.layers if program.trains(module, spot.suffix, n))
        if measured.layered:
            layers = frozenset(n for n in layers if measured.there(common, spot.dims, n, *args)[0])
        number = len(layers) if spot.layers else int(program.trains(module, spot.suffix, -1))
        sizes = measured.sizes(common, spot.dims, *args)
        if sizes is not None and number:
            states, together, temporary = sizes
            yield Ruled(module, spot.suffix, layers if spot.layers else None, number, states, temporary, together)
