"""A configuration of a library that has been read: its method, setting, modules and counts.

    >>> import peftonomy
    >>> kb = peftonomy.load()
    >>> adapter = kb.adapter({"peft_type": "LORA", "r": 32, "target_modules": ["q_proj", "v_proj"]}, "llama_3_2_3b")
    >>> adapter.method.id, adapter.cost.trained, adapter.reported.total
    ('lora', 9175040, 3221924864)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..backbones.modules import INPUT_EMBEDDING, SiteGroup
from ..costs.cost import Cost
from ..costs.plan import BYTES, Plan
from ..schema.base import Value
from ..schema.implementations import Deviation, Implementation
from ..schema.names import DIMS, MODEL_NAMES

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..formula import Formula
    from ..schema.library import Library
    from ..schema.method import MethodEntry

from .arguments import numbers
from .extras import Extra
from .selected import shares

__all__ = ["Adapter", "Extra", "Reported", "formulas", "module_sizes"]

LEDGERS = ("trained", "stored", "stored_bits", "shared", "served", "head")
"""The ledgers of a cost that a library's formulas may use."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The counts that the library itself reports for the wrapped model, extras included.

    trained: parameters that require a gradient. total: all parameters. stored, stored_bytes: values in the file that it
    saves, and their bytes.
    """

    trained: int
    total: int
    stored: int
    stored_bytes: int


@dataclass(frozen=True)
class Adapter:
    """A parsed configuration. `KnowledgeBase.adapter` creates it.

    type: the library's name for it. arguments: all of them, defaults filled in. hyperparameters: the method's own, as
    far as the configuration sets them. patterns: sites with their own values, by module name. groups: the library's
    sums over groups of modules. notes: sentences on arguments that were ignored or interpreted.
    """

    library: Library
    type: str
    method: MethodRecord
    plan: Plan
    arguments: dict[str, Any]
    hyperparameters: dict[str, Any]
    patterns: dict[str, dict[str, Value]]
    extras: tuple[Extra, ...]
    groups: dict[str, int]
    notes: tuple[str, ...]
    dtype: str

    @cached_property
    def cost(self) -> Cost:
        """The method's ledgers as the entry defines them."""
        return self.plan.cost(self.hyperparameters, self.dtype)

    @property
    def implementation(self) -> Implementation:
        """The entry's record for this library."""
        return self.method.entry.implementations[self.library.id]

    @property
    def deviations(self) -> list[Deviation]:
        """The differences between the library and the entry."""
        return self.implementation.deviations

    @cached_property
    def known(self) -> dict[str, Any]:
        """The names that the library's formulas may use, with their values."""
        entry, cost = self.implementation, self.cost
        found = numbers(self.arguments) | self.plan.common | {**cost.hyperparameters} | {
            name: getattr(cost, name) for name in LEDGERS
        } | {"added": self._grown} | _besides(self.plan, self.library.embedding_names) | _totals(cost)  # fmt: skip
        return found | _per_site(entry, self.plan, found) | self.groups

    @property
    def _grown(self) -> int:
        """The entries of the new tensors."""
        selecting = {piece.name for piece in self.plan.pieces if piece.tensor.selecting}
        return sum(tensor.total for tensor in self.cost.tensors if tensor.name not in selecting)

    @cached_property
    def reported(self) -> Reported:
        """The counts that the library will report."""
        entry, cost, known = self.implementation, self.cost, self.known
        grown = known["added"]
        trained, added, stored = (
            plain if formula is None else math.ceil(formula(known))
            for formula, plain in ((entry.trained, cost.trained), (entry.added, grown), (entry.stored, cost.stored))
        )
        beside = [sum(getattr(extra, name) for extra in self.extras) for name in ("trained", "added", "stored")]
        size = BYTES[self.dtype]
        held = cost.stored_bytes if entry.stored is None else stored * size
        return Reported(
            trained + beside[0], self.plan.inventory.total + added + beside[1], stored + beside[2],
            held + beside[2] * size,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `cost` as in `cost --json`, with the library's own counts."""
        return self.cost.to_dict() | {
            "library": self.library.id,
            "type": self.type,
            "patterns": self.patterns,
            "extras": [asdict(extra) for extra in self.extras],
            "reported": asdict(self.reported),
            "notes": list(self.notes),
            "deviations": [d.model_dump(exclude_none=True) for d in self.deviations],
        }

    def __repr__(self) -> str:
        return f"<Adapter {self.library.id} {self.type}: {self.method.id} on {self.plan.inventory.backbone.id}>"


BESIDES = ("n_tied", "table", "named_table", "n_biased", "biased_d_in", "biased_d_out")
"""The names of `_besides`."""
MIRRORED = ("mirror", "mirror_width", "n_wrapped", "task_head")
"""The names about the model that a type adds (`mirrors`)."""
LOADED = ("loaded", "loaded_trained", "loaded_added")
"""The names about adapters that a configuration loads (`loads`)."""


def formulas(
    entry: MethodEntry, implementation: Implementation, library: Library, kind: str
) -> Iterator[tuple[tuple[str | int, ...], Formula, set[str]]]:
    """Yield the formulas of an entry about a library, each with its place and the names that it may use."""
    own, spec, arguments = {*entry.hyperparameters}, library.types[kind], {*library.defaults(kind)}
    model, sizes = {*MODEL_NAMES, *DIMS}, {"d_in", "d_out", "biased"}
    totals = {f"{word}_{name}" for name in entry.tensors for word in ("n", "total")}
    counted = {*own, *model, *arguments, *LEDGERS, "added", *BESIDES, *totals}
    summed = {*implementation.per_site, *(implementation.per_group if spec.accepts else ())}
    added = {*(MIRRORED if spec.mirrors else ()), *(LOADED if spec.loads is not None else ())}
    everything = counted | summed | added
    fitted = own | model | arguments | sizes | {"n_weights"} | {f"global_{name}" for name in own}
    tables: list[tuple[str, Mapping[str, Formula], set[str]]] = [
        ("read", implementation.read, model | arguments), ("wider", implementation.wider, own | model),
        ("fit", implementation.fit, fitted), ("per_site", implementation.per_site, counted | sizes),
        ("per_group", implementation.per_group, model | arguments | sizes | {"n"}),
        ("remarks", implementation.remarks, everything),
    ]  # fmt: skip
    yield from (((field, name), one, known) for field, table, known in tables for name, one in table.items())
    yield from ((("holds", i), one, everything | sizes) for i, one in enumerate(implementation.holds))
    for field in ("trained", "stored", "added"):
        if (one := getattr(implementation, field)) is not None:
            yield (field,), one, everything


def _besides(plan: Plan, names: Sequence[str]) -> dict[str, int]:
    """Return further names for the library's formulas.

    They are the number and widths of targeted modules with a bias, the number of modules that share the table of the
    input embedding, and the size of that table, also if its name is among the library's.
    """
    sites = [site for group in plan.sites for site in group if site.bias]
    modules = plan.inventory.modules
    tied = [m for m in modules if shares(m)]
    tables = [m for m in modules if m.kind == "embedding" and m.role == INPUT_EMBEDDING]
    return {
        "n_tied": len(tied),
        "table": sum(m.numel for m in tables),
        "named_table": sum(m.numel for m in tables if m.path.rpartition(".")[2] in names),
        "n_biased": sum(site.count for site in sites),
        "biased_d_in": sum(site.count * site.d_in for site in sites),
        "biased_d_out": sum(site.count * site.d_out for site in sites),
    }


def module_sizes(site: SiteGroup) -> dict[str, int]:
    """Return the names of a module's sizes in the library's formulas."""
    return {"d_in": site.d_in, "d_out": site.d_out, "biased": int(site.bias)}


def _per_site(entry: Implementation, plan: Plan, known: Mapping[str, Any]) -> dict[str, int]:
    """Return the library's sums over the targeted modules, each with its own sizes and hyperparameters."""
    own = plan.chosen.own if plan.chosen is not None else {}
    sites = [site for group in plan.sites for site in group]
    return {
        name: sum(site.count * formula({**known, **own.get(site, {}), **module_sizes(site)}) for site in sites)
        for name, formula in entry.per_site.items()
    }


def _totals(cost: Cost) -> dict[str, int]:
    """Return, for each of our tensors by name, the number of tensors and of all their entries."""
    found: dict[str, int] = {}
    for tensor in cost.tensors:
        for name, number in ((f"n_{tensor.name}", tensor.sites), (f"total_{tensor.name}", tensor.total)):
            found[name] = found.get(name, 0) + number
    return found
