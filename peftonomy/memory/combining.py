"""Count a combination of trained models or adapters: its inputs, its result, and the memory that it takes.

    >>> import peftonomy
    >>> found = peftonomy.load()["task_arithmetic"].combination("roberta_base", tasks=8)
    >>> found.inputs, found.each, found.stored
    (8, 124055040, 124055040)

The result lies in the model's place, and the inputs are read from their files tensor by tensor. So the peak is the
model's weights with the tensors of the method, and what the largest pass takes besides. It contains no measured number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from ..costs.layout import spots
from ..costs.measure import measure
from ..costs.plan import BYTES, EXACT, Plan
from ..costs.table import Table, Tabled
from ..errors import FormulaError, UsageError, chosen
from ..formula import Formula
from ..schema.base import Value

if TYPE_CHECKING:
    from ..schema.combines import Combines, Pass

__all__ = ["Combination", "combination", "passed"]


@dataclass(frozen=True)
class Combination(Tabled):
    """What is there before a combination and after it, and the bytes that it takes.

    inputs: the number of inputs, each a checkpoint of the method `of`. each: stored values of one input. each_bytes:
    all of its checkpoint. stored, stored_bytes: the same of the result. trained: entries that are trained after it.
    sum: `exact` if the change of each weight is a weighted sum of the inputs' changes, `approximate` if not, None if
    the method does not merge into the weights. weights: bytes of the model with the method's tensors. temporary: the
    most bytes that the combination takes besides them.
    """

    method: str
    model: str
    hyperparameters: dict[str, Value]
    targets: tuple[str, ...]
    dtype: str
    of: str
    inputs: int
    each: int
    each_bytes: int
    stored: int
    stored_bytes: int
    trained: int
    sum: str | None
    weights: int
    temporary: int

    @property
    def inputs_bytes(self) -> int:
        """Bytes of all inputs' checkpoints together."""
        return self.inputs * self.each_bytes

    @property
    def peak(self) -> int:
        """The most bytes that are held at once."""
        return self.weights + self.temporary

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `merge --json` prints it."""
        return {**vars(self), "targets": list(self.targets), "inputs_bytes": self.inputs_bytes, "peak": self.peak}

    def table(self) -> Table:
        """Return a table with one row for the inputs and one for the result."""
        rows = [
            {"": f"{self.inputs} inputs ({self.of})", "values": self.inputs * self.each, "bytes": self.inputs_bytes},
            {"": "result", "values": self.stored, "bytes": self.stored_bytes},
        ]
        return Table(rows, caption=f"{self.method} on {self.model}: peak {self.peak:,} bytes")


def combination(kb: Records[Any], plan: Plan, given: Mapping[str, Any], dtype: str) -> Combination:
    """Count the combination of a method laid out on a model. See `MethodOn.combination`. Raises UsageError."""
    width, found = chosen("dtype", dtype, BYTES), plan.entry.combines
    if found is None:
        raise UsageError(f"{plan.id} combines nothing: it trains its own tensors")
    values = plan.values(given)
    cost = plan.cost(values, dtype)
    own = {**plan.common, **values}
    inputs = _whole(plan, "inputs", found.inputs(own), 1)
    each = _inputs(kb, plan, found).cost(passed(kb, plan, values), dtype)
    added = sum(row.count * row.n for row in plan.each(values) if not row.piece.tensor.selecting)
    temporary = max(_taken(plan, one, values, width) for one in found.passes)
    weights = (plan.inventory.backbone.parameters + added) * width
    if max(weights + temporary, inputs * each.stored_bytes) > EXACT:
        raise UsageError(f"{plan.id}: this combination takes more than 2**53 bytes")
    return Combination(
        plan.id, cost.model, values, plan.targets, dtype, found.method, inputs, each.stored, each.stored_bytes,
        cost.stored, cost.stored_bytes, cost.trained, found.sum, weights, temporary,
    )  # fmt: skip


def _inputs(kb: Records[Any], plan: Plan, found: Combines) -> Plan:
    """Return the layout of the inputs' method on the same model, at the same targets. All settings share it."""
    if "inputs" not in plan.memo:
        method = kb[found.method]
        aimed = any(part.entry.targets is not None for part in method.parts)
        targets = plan.targets if aimed and plan.target_modules is None else None
        plan.memo["inputs"] = Plan(method.parts, plan.inventory, targets, plan.target_modules if aimed else None)
    laid: Plan = plan.memo["inputs"]
    return laid


def passed(kb: Records[Any], plan: Plan, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the hyperparameters of the inputs that follow from ours. Raises UsageError."""
    found = plan.entry.combines
    assert found is not None
    specs = kb[found.method].entry.hyperparameters
    given = {theirs: values[ours] for theirs, ours in found.rename.items()}
    for name, fixed in found.set.items():
        computed = isinstance(fixed, str) and specs[name].type in ("int", "float")
        given[name] = _value(plan, Formula.parse(str(fixed)), {**plan.common, **values}) if computed else fixed
    return given


def _value(plan: Plan, formula: Formula, known: Mapping[str, Any]) -> Any:
    try:
        return formula(known)
    except FormulaError as error:
        raise UsageError(f"{plan.id}: its combination has no value here: {error}") from None


def _taken(plan: Plan, one: Pass, values: Mapping[str, Value], width: int) -> int:
    """Return the bytes that a pass takes: those of all its locations together, and of the largest one for a while."""
    together, largest, common = 0, 0, plan.common | {"width": width}
    measured = measure(one.tensor(), tuple(plan.entry.hyperparameters))
    for spot in spots(measured, plan.inventory, plan.sites[0]):
        number = spot.n
        try:
            if measured.layered:
                number = sum(measured.there(common, spot.dims, n, *values.values())[0] for n in spot.layers)
            sizes = measured.sizes(common, spot.dims, *values.values())
        except FormulaError as error:
            raise UsageError(f"{plan.id}: its combination has no value here: {error}") from None
        if sizes is not None and number:
            held, _, temporary = sizes
            together += number * _whole(plan, "bytes", held)
            largest = max(largest, _whole(plan, "bytes", temporary))
    return together + largest


def _whole(plan: Plan, what: str, value: Any, least: int = 0) -> int:
    """Return a count as an integer. Raises UsageError if it is fractional, too small or beyond 2**53."""
    if not math.isfinite(value) or value != int(value) or not least <= value <= EXACT:
        raise UsageError(f"{plan.id}: its combination has {value} {what}; expected a whole number from {least}")
    return int(value)
