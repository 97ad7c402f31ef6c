"""Find the parameters of the model that a method's own rule updates, with the bytes that the rule takes.

A record of `updates` says for each parameter what the rule keeps between steps and what it takes for a while. The
optimizer has no states for these parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backbones.modules import Module
from ..costs.layout import Spot, spots
from ..costs.measure import Measure, measure
from ..errors import UsageError
from .machine import SINGLE
from .program import Program

if TYPE_CHECKING:
    from ..costs.plan import Plan

__all__ = ["Ruled", "ruled"]


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


def ruled(program: Program, values: Mapping[str, Any], width: int) -> list[Ruled]:
    """Return the trained parameters that the method's own rules update. width: bytes of one trained parameter."""
    plan = program.plan
    records = _records(plan)
    if not records:
        return []
    arguments = plan.arguments(dict(values))
    found: dict[tuple[str, str, int], Ruled] = {}
    for part, measured, places in records:
        for one in _found(program, measured, places, arguments[part], width):
            for layer in one.layers or (-1,):
                if found.setdefault((one.module.path, one.suffix, layer), one) is not one:
                    raise UsageError(f"{plan.id}: two of its updates change {one.module.path}.{one.suffix}")
    return list({id(one): one for one in found.values()}.values())


def _records(plan: Plan) -> Sequence[tuple[int, Measure, Sequence[Spot]]]:
    """Return every record of updates with the number of its part and its spots. They suit all hyperparameters."""
    if "updates" not in plan.memo:
        plan.memo["updates"] = [
            (index, measured, tuple(spots(measured, plan.inventory, ())))
            for index, part in enumerate(plan.parts)
            for update in (part.entry.memory.updates if part.entry.memory is not None else ())
            for measured in [measure(update.tensor(), tuple(part.entry.hyperparameters))]
        ]
    records: Sequence[tuple[int, Measure, Sequence[Spot]]] = plan.memo["updates"]
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
