"""The bytes that a serving engine allocates for adapters, from the formulas of `taxonomy/engines/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backbones.modules import INPUT_EMBEDDING, LINEAR, OUTPUT_EMBEDDING, Module
from ..costs.plan import BYTES, EXACT
from ..errors import FormulaError, UnknownName, UsageError, shown

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory
    from ..costs.plan import Plan
    from ..formula import Formula
    from ..schema.engines import Engine

__all__ = ["Ask", "sizes", "slot"]

TABLES = (INPUT_EMBEDDING, OUTPUT_EMBEDDING)
"""Roles that an engine may leave out."""
MOST = 10**6


@dataclass(frozen=True, slots=True)
class Ask:
    """The options of an engine: the number of adapters, their rank, the GPUs and the type of the numbers."""

    max_loras: int
    rank: int
    tp: int = 1
    fully_sharded: bool = False
    dtype: str = "bfloat16"

    def check(self, engine: Engine) -> None:
        """Raise UsageError for an option that the engine does not accept."""
        for name in ("max_loras", "rank", "tp"):
            number = getattr(self, name)
            if type(number) is not int or not 1 <= number <= MOST:
                raise UsageError(f"{name}: found {shown(number)}; expected a whole number from 1 to {MOST:,}")
        label = f"{engine.name} {engine.version}"
        if engine.ranks and self.rank not in engine.ranks:
            above = next((r for r in engine.ranks if r > self.rank), None)
            hint = f"; the next is {above}" if above else ""
            raise UsageError(f"max_rank: found {self.rank}; {label} accepts {_listed(engine.ranks)}{hint}")
        if engine.tp and self.tp not in engine.tp:
            raise UsageError(f"tp: found {self.tp}; {label} serves adapters on {_listed(engine.tp)} GPU only")
        if self.fully_sharded and not engine.sharded:
            raise UsageError(f"fully_sharded: {label} has no such option")
        if self.dtype not in engine.dtypes:
            raise UnknownName("dtype", self.dtype, engine.dtypes, f"of {label}")


def slot(engine: Engine, plan: Plan, ask: Ask) -> dict[str, int]:
    """Return the bytes of one adapter on one GPU, by role. Raises UsageError.

    plan: the method on the model, whose targets matter if the engine allocates only for these.
    """
    ask.check(engine)
    inventory = plan.inventory
    family = inventory.backbone.family.model_type
    if family not in engine.families:
        lacks = f"{engine.name} {engine.version}: the layers of {family} ({inventory.backbone.id}) are not described"
        raise UsageError(f"{lacks}; described are {', '.join(sorted(engine.families))}")
    known = sizes(inventory.dims, ask)
    if engine.requires is not None and not engine.requires(known):
        bound = ", ".join(f"{n} = {known[n]}" for n in sorted(engine.requires.names))
        raise UsageError(f"{engine.name} {engine.version} requires {engine.requires.source}; found {bound}")
    if engine.rank is not None:
        known["rank"] = _whole(engine.rank, known)
    size = BYTES[ask.dtype]
    kinds = engine.layers(family)
    if engine.adapter is not None:
        _all_adapted(engine, kinds, _targeted(plan))
        return {"pool": size * _whole(engine.adapter, known)}
    wanted = None if engine.every else _targeted(plan)
    if wanted is not None:
        _all_adapted(engine, kinds, wanted)
    found: dict[str, int] = {}
    for role, module, d_out, count in _layers(inventory, kinds, wanted):
        experts, d_in = _shaped(module)
        here = known | {"d_in": d_in, "d_out": d_out or _outputs(module), "experts": experts}
        kind = engine.kinds[kinds[role]]
        for divided in kind.divides:
            total = _whole(divided, here)
            if total % ask.tp:
                raise UsageError(f"tp: {ask.tp} GPUs do not divide {divided.source} = {total:,} of {role}")
        found[role] = found.get(role, 0) + size * count * _whole(kind.numbers, here)
    return found


def sizes(dims: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """Return the values of the names in an engine's formulas, outside of any layer."""
    asked = {"tp": ask.tp, "sharded": ask.fully_sharded, "rank": ask.rank}
    return {**dims, **asked, "d_in": 0, "d_out": 0, "experts": 1}


def _layers(
    inventory: Inventory, kinds: Mapping[str, str], wanted: Mapping[str, int] | None
) -> Iterable[tuple[str, Module, int, int]]:
    """Yield each adapted layer: its role, module, outputs (0: all of the module's) and number."""
    for module in inventory.modules:
        if wanted is not None:
            slices = {role: stop - start for role, start, stop in module.slices} | {module.role: 0}
            for role, width in slices.items():
                if role in wanted and (module.stack or role in TABLES):
                    yield role, module, width, wanted[role]
        elif module.role in kinds:
            yield module.role, module, 0, module.count
        elif module.stack and (module.kind in LINEAR or module.role.startswith("moe.")):
            raise UsageError(f"{inventory.backbone.id} has a layer {module.role}, which the engine's file lacks")


def _targeted(plan: Plan) -> dict[str, int]:
    """Return the roles that the method adapts, with the number of layers."""
    found: dict[str, int] = {}
    for group in plan.sites:
        for site in group:
            found[site.role] = found.get(site.role, 0) + site.count
    return found


def _all_adapted(engine: Engine, kinds: Mapping[str, str], wanted: Iterable[str]) -> None:
    if missing := [role for role in wanted if role not in kinds]:
        known = ", ".join(kinds)
        raise UsageError(f"{engine.name} {engine.version} does not adapt {', '.join(missing)}; it adapts {known}")


def _shaped(module: Module) -> tuple[int, int]:
    """Return the number of experts in a module's tensor, and its inputs."""
    if module.kind != "parameter":
        return 1, module.d_in
    shape = module.parameters[0][1]
    return (shape[0] if len(shape) == 3 else 1), shape[-1]


def _outputs(module: Module) -> int:
    return module.parameters[0][1][-2] if module.kind == "parameter" else module.d_out


def _whole(formula: Formula, known: Mapping[str, Any]) -> int:
    try:
        value = formula(known)
    except FormulaError as error:
        raise UsageError(str(error)) from None
    if isinstance(value, str) or value != int(value) or not 0 <= value <= EXACT:
        raise UsageError(f"{formula.source} is {shown(value)}; expected a whole number below 2**53")
    return int(value)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
