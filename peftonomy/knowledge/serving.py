"""Serving: whether a method merges, swaps and shares a batch, whether an engine takes it, and the bytes on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..backbones.modules import INPUT_EMBEDDING
from ..catalogue.records import MethodRecord, Records
from ..costs.plan import BYTES, Plan
from ..costs.table import Table, Tabled
from ..errors import FormulaError, UsageError, chosen, shown
from ..memory.answer import remembered
from ..memory.setting import Setting
from ..schema.base import Value
from ..schema.names import OF_PARAMETERS
from ..serving.slots import MOST, Ask, slot

if TYPE_CHECKING:
    from ..schema.engines import Engine, Works
    from ..schema.method import MethodEntry

__all__ = ["Serving", "records", "serve", "status", "traits"]

RANK = "r"
"""The hyperparameter with the rank of an adapter."""
TOKEN = Setting(batch=1, seq=1)
"""One decoded token."""


@dataclass(frozen=True)
class Serving(Tabled):
    """The memory of one method's adapters in a serving engine, on one GPU.

    works: whether the engine takes the saved adapter (taken, converted, refused, wrong, unknown); why: the reason.
    parts: bytes of one adapter by role, empty if the engine does not take it. slot_bytes: their sum. total_bytes: of
    `max_loras` adapters. positions: tokens that the method puts in front of every input. key_value_bytes: what these,
    or the method's own keys and values, take in the cache; None if the model's cache is not described.

    unmerged_bytes: of the tensors that an unmerged adapter keeps beside the model. unmerged_flops: the operations in
    matrix products that they add to a decoded token, as the entry computes it; None if the method adds positions or its
    computation is not described. unmerged_launches: the kernel launches that they add in the library, with adapter and
    model in one data type; None if they are not counted.
    """

    method: str
    model: str
    hyperparameters: dict[str, Value]
    engine: str | None
    version: str | None
    works: Works | None
    why: str
    source: str | None
    allocates: str | None
    max_loras: int
    max_rank: int | None
    tp: int
    fully_sharded: bool
    dtype: str
    parts: dict[str, int]
    positions: int
    key_value_bytes: int | None
    unmerged_bytes: int
    unmerged_flops: int | None
    unmerged_launches: int | None
    beside: tuple[str, ...]

    @property
    def slot_bytes(self) -> int | None:
        """The bytes of one adapter; None if the engine does not take it."""
        return sum(self.parts.values()) if self.parts else None

    @property
    def total_bytes(self) -> int | None:
        """The bytes of all adapters; None if the engine does not take them."""
        return None if self.slot_bytes is None else self.max_loras * self.slot_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `serving --json` prints it. Integers are exact."""
        sums = {"slot_bytes": self.slot_bytes, "total_bytes": self.total_bytes}
        return asdict(self) | sums | {"beside": list(self.beside)}

    def table(self) -> Table:
        """Return a table with one row per part of an adapter."""
        rows = [{"layer": role, "bytes": size} for role, size in self.parts.items()]
        return Table(rows, caption=f"{self.method} on {self.model} in {self.engine}: one adapter on one GPU")


def serve(
    method: MethodRecord, plan: Plan, engine: Engine | None, given: Mapping[str, Any],
    max_loras: int, max_rank: int | None, tp: int, fully_sharded: bool, dtype: str,
) -> Serving:  # fmt: skip
    """Return the memory of a method's adapters in an engine. Raises UsageError."""
    values = plan.values(given)
    chosen("dtype", dtype, BYTES)
    for name, number in (("max_loras", max_loras), ("max_rank", max_rank), ("tp", tp)):
        if number is not None and not (type(number) is int and 1 <= number <= MOST):
            raise UsageError(f"{name}: found {shown(number)}; expected a whole number from 1 to {MOST:,}")
    found: dict[str, Any] = {"works": None, "note": "", "source": None} if engine is None else status(method, engine)
    rank = max_rank if max_rank is not None or engine is None else _rank(values, engine)
    parts: dict[str, int] = {}
    ask = Ask(max_loras, rank if rank is not None else 1, tp, fully_sharded, dtype)
    if engine is not None:
        if found["works"] in ("taken", "converted"):
            if rank is None:
                raise UsageError(f"max_rank: {method.id} has no hyperparameter {RANK}; give the rank of the adapters")
            own = values.get(RANK)
            if found["works"] == "taken" and isinstance(own, int) and own > rank:
                raise UsageError(f"max_rank: found {rank}; {method.id} has the rank {own}")
            parts = slot(engine, plan, ask)
        else:
            ask.check(engine)
    else:
        options = {"max_loras": max_loras != 1, "max_rank": max_rank is not None, "fully_sharded": fully_sharded}
        if alone := next((name for name, asked in options.items() if asked), None):
            raise UsageError(f"{alone} needs an engine")
    positions = _positions(plan, values)
    cached = _key_values(plan, values, positions, tp, BYTES[dtype])
    extra = _numbers(plan, values), _operations(method, plan, given) if cached == 0 else None, _launches(method, plan)
    return Serving(
        method.id, plan.inventory.backbone.id, values, engine.id if engine is not None else None,
        engine.version if engine is not None else None, found["works"], found["note"], found["source"],
        engine.allocates if engine is not None else None, max_loras, rank, tp, fully_sharded, dtype, parts, positions,
        cached, BYTES[dtype] * extra[0], *extra[1:], tuple(engine.beside) if engine is not None else (),
    )  # fmt: skip


def _rank(values: Mapping[str, Value], engine: Engine) -> int | None:
    """Return the smallest rank of the engine's option that holds the method's rank; None without such a rank."""
    own = values.get(RANK)
    if type(own) is not int:
        return None
    return next((rank for rank in engine.ranks if rank >= own), own)


def _positions(plan: Plan, values: Mapping[str, Value]) -> int:
    """Return the positions that the method adds to every input at inference. Raises UsageError without a value."""
    found = 0
    for part, arguments in zip(plan.parts, plan.arguments(dict(values)), strict=True):
        known = {**plan.common, **dict(zip(part.entry.hyperparameters, arguments, strict=True))}
        try:
            found += int(part.entry.properties.inference_positions(known))
        except FormulaError as error:
            raise UsageError(f"{part.entry.id} on {plan.inventory.backbone.id}: {error}") from None
    return found


def _key_values(plan: Plan, values: Mapping[str, Value], positions: int, tp: int, size: int) -> int | None:
    """Return the bytes of keys and values on one GPU: those of added positions, and those that the method stores."""
    own = 0
    for row in plan.rows(dict(values)):
        tensor = row.piece.tensor
        if tensor.per == "attention" and tensor.shape and tensor.shape[-1].source == "d_kv":
            own += row.kept
    if not positions and not own:
        return 0
    inventory = plan.inventory
    attentions = [b for b in inventory.blocks if b.kind == "attention"]
    latent = any(m.role == "attn.kv_down" for m in inventory.modules)
    if latent or inventory.backbone.family.kind != "decoder" or not any(
        m.role == INPUT_EMBEDDING for m in inventory.modules
    ):  # fmt: skip
        return None
    heads = inventory.dims["n_kv_heads"]
    if heads % tp and tp % heads:
        raise UsageError(f"tp: {tp} GPUs do not divide n_kv_heads = {heads}")
    each = sum(2 * len(block.layers) * block.dims["d_kv"] for block in attentions)
    return size * (positions * each + own) // heads * max(heads // tp, 1)


# Unmerged adapters


def _numbers(plan: Plan, values: Mapping[str, Value]) -> int:
    """Return the entries of the method's own tensors that take part in inference."""
    rows = plan.rows(dict(values))
    return sum(r.count * r.n for r in rows if r.piece.tensor.served != "absent" and not r.piece.tensor.selecting)


def _launches(method: MethodRecord, plan: Plan) -> int | None:
    """Return the launches that the method adds to a forward pass: those of a layer times the adapted layers."""
    counted = method.kb.unmerged
    one = counted.launches.get(method.id) if counted is not None else None
    return None if one is None else one.same * sum(site.count for group in plan.sites for site in group)


def _operations(method: MethodRecord, plan: Plan, given: Mapping[str, Any]) -> int | None:
    """Return the operations in matrix products that the method adds to a decoded token."""
    own = _own_operations(method.kb, plan)
    try:
        found = remembered(method.kb, plan, given, TOKEN).forward_flops
    except UsageError:
        return None
    return None if own is None else found - own


def _own_operations(kb: Records[Any], plan: Plan) -> int | None:
    """Return the operations of the model's own forward pass for one token.

    They are those of a method that only selects parameters of the model and declares no operation of its own.
    """
    inventory, key = plan.inventory, "own_operations"
    if key not in inventory.memo:
        inventory.memo[key] = None
        for one in kb.values():
            memory = one.entry.memory
            tensors = one.entry.tensors.values()
            if one.entry.includes or (memory is not None and memory.operations) or not tensors:
                continue
            if all(tensor.selecting for tensor in tensors):
                try:
                    found = Plan(one.parts, inventory)
                    inventory.memo[key] = remembered(kb, found, {}, TOKEN).forward_flops
                except UsageError:
                    continue
                break
    own: int | None = inventory.memo[key]
    return own


# Methods in engines


def status(method: MethodRecord, engine: Engine) -> dict[str, Any]:
    """Return whether an engine takes a method's saved adapter: works, note, source, earlier, and whether it is derived.

    A method without a record follows from its configuration in the library: without the keys that the engine needs the
    configuration is refused, unless a conversion to LoRA is exact.
    """
    one = engine.methods.get(method.id)
    if one is not None:
        return {**one.model_dump(mode="json"), "derived": False}
    kb = method.kb
    combined = kb.combinations
    library = kb.libraries[combined.library] if combined is not None else None
    offered = method.entry.implementations.get(library.id) if library is not None else None
    if combined is None or library is None or offered is None or offered.type is None:
        return _derived("unknown", "We have not read how its checkpoint would be loaded.", None)
    if offered.type in engine.saved_as:
        if not offered.set:
            return _derived("taken", f"Its configuration is that of {offered.type}.", engine.needs_source)
        return _derived("unknown", f"We have not read what {', '.join(offered.set)} does there.", None)
    exact = next((c for c in combined.conversions.values() if c.method == method.id and c.result == "exact"), None)
    missing = [key for key in engine.needs if key not in library.defaults(offered.type)]
    if exact is not None:
        at = exact.rank.source if exact.rank is not None else ""
        note = f"Converted to LoRA it is exact at the rank {at}." if at else "It converts to LoRA exactly."
        return _derived("converted", note, combined.convert_source)
    if missing:
        note = f"Its configuration has no {' and no '.join(missing)}."
        return _derived("refused", note, engine.needs_source)
    return _derived("unknown", "We have not read how its checkpoint would be loaded.", None)


def _derived(works: Works, note: str, source: str | None) -> dict[str, Any]:
    return {"works": works, "note": note, "source": source, "earlier": [], "derived": True}


# Properties of methods


def traits(method: MethodRecord) -> dict[str, dict[str, Any]]:
    """Return whether a method is mergeable, swappable and batched with others, each with the reason. All is derived.

    `requantised`: whether a merge into quantised weights is exact (all, rows, partly, none).
    """
    tensors = {part.prefix + name: t for part in method.parts for name, t in part.entry.tensors.items()}
    kept = [name for name, tensor in tensors.items() if tensor.served == "kept"]
    own = [name for name, tensor in tensors.items() if tensor.per in OF_PARAMETERS and tensor.served != "absent"]
    bits = [name for name, tensor in tensors.items() if any(part.as_ == "bits" for part in tensor.stored)]
    quantised = bool(method.entry.base_storage)
    found: dict[str, dict[str, Any]] = {
        "mergeable": {"holds": method.merge == "exact", "why": "Every tensor merges into the model's parameters."}
    }
    if quantised and kept:
        found["mergeable"]["why"] = "The base is quantised, and a merged weight is rounded again."
    elif kept:
        found["mergeable"]["why"] = f"Stays beside the weights: {_some(kept)}."
    replaced = [*dict.fromkeys([*own, *bits])]
    apart = not kept and not own and all(t.per != "site" for t in tensors.values())
    moved = method.merge == "exact" and apart and "weight" in method.entry.facets.get("acts_on", [])
    if replaced:
        why = f"A task replaces parameters of the model ({_some(replaced)})."
        found["swappable"] = {"holds": False, "why": f"{why} The old values must be written back."}
        found["batched"] = {"holds": False, "why": f"{why} All inputs of a batch share them."}
    elif moved:
        why = "A task moves all weights of the model together."
        found["swappable"] = {"holds": False, "why": f"{why} The old values must be written back."}
        found["batched"] = {"holds": False, "why": f"{why} All inputs of a batch share them."}
    else:
        found["swappable"] = {"holds": True, "why": "The tensors of a task lie beside the model's parameters."}
        found["batched"] = {"holds": True, "why": "Each input of a batch can use its own task's tensors."}
    return found | {"requantised": exactness(method)}


def exactness(method: MethodRecord) -> dict[str, Any]:
    """Return whether a merge into quantised weights is exact, with the reason; derived from tensors and operations.

    Biases, norms and embeddings are not quantised. A factor for each row of a weight goes into the row's scale, or into
    those of its blocks if these are not quantised themselves.
    """
    if method.merge != "exact":
        return {"holds": "none", "why": "Does not merge."}
    rows: list[str] = []
    rounded: list[str] = []
    for part in method.parts:
        for name, tensor in part.entry.tensors.items():
            if tensor.served == "absent" or tensor.per in ("bias", "norm") or _is_table(tensor.roles):
                continue
            (rows if _scales_rows(part.entry, name) else rounded).append(part.prefix + name)
    if not rows and not rounded:
        return {"holds": "all", "why": "No quantised weight changes."}
    if not rounded:
        return {"holds": "rows", "why": "Every change is a factor for each row, which goes into the scales."}
    if rows:
        why = f"The row factors {_some(rows)} go into the scales; {_some(rounded)} are rounded with the weights."
        return {"holds": "partly", "why": why}
    return {"holds": "none", "why": f"The weights with {_some(rounded)} are rounded again."}


def _is_table(roles: list[str] | None) -> bool:
    return roles is not None and all(role.startswith("embed.") for role in roles)


def _scales_rows(entry: MethodEntry, name: str) -> bool:
    """Return True if the only operation on a tensor multiplies a module's output with it."""
    tensor = entry.tensors[name]
    if tensor.per != "site" or tensor.shape is None or [size.source for size in tensor.shape] != ["d_out"]:
        return False
    found = [text for op in entry.memory.operations for text in op.functions.items()] if entry.memory else []
    using = [(head, body) for head, body in found if f".{name}" in body.replace("\n", " ").split()]
    return using == [("after x y", f"mul .{name} y")]


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def records(kb: Records[Any]) -> Iterator[dict[str, Any]]:
    """Yield one record for each method: its properties, and each engine's answer."""
    for key in kb:
        method = kb[key]
        engines = {name: status(method, engine) for name, engine in kb.engines.items()}
        yield {"method": key, **traits(method), "engines": engines}
