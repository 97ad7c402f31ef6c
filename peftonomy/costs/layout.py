"""Lay out a method's tensors in a model: the locations of each tensor, and the dimensions for its formulas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..backbones.backbone import Inventory
from ..backbones.modules import LINEAR, Block, Module, SiteGroup, joined, role_matches
from ..errors import UsageError, shown
from ..formula import Formula
from ..schema.base import Value
from ..schema.method import MethodEntry
from ..schema.tensors import Tensor
from .measure import Measure, measures

__all__ = ["NamedSites", "Part", "Spot", "SpotGroup", "flattened", "sites", "spot_groups"]

MOST_PARTS = 50

Suffixes = tuple[str, ...] | str


@dataclass(frozen=True)
class Part:
    """An entry in the flattened tree of includes: its prefix, its parent part, and its hyperparameters' values."""

    prefix: str
    entry: MethodEntry
    parent: int
    rename: Mapping[str, str]
    fixed: Mapping[str, Value]

    @cached_property
    def domains(self) -> list[tuple[str, Formula, Callable[..., Any]]]:
        """Each hyperparameter with a domain: name, domain, and a function of `(common, {}, *hyperparameters)`."""
        specs, names = self.entry.hyperparameters, tuple(self.entry.hyperparameters)
        domains = [(name, spec.domain) for name, spec in specs.items() if spec.domain is not None]
        return [(name, domain, Formula.together([domain], names, ())) for name, domain in domains]

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """The measure of each of the entry's tensors."""
        return measures(self.entry)


@dataclass(slots=True)
class Spot:
    """A group of `n` equal locations of a tensor, with the dimensions in which locations may differ.

    source: its module, site or block (None: the whole model). shape, suffix: those of the backbone's own parameter, for
    a tensor that selects it.
    """

    role: str
    n: int
    dims: dict[str, Any]
    source: Module | SiteGroup | Block | None = None
    layers: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    suffix: str = ""

    @property
    def path(self) -> str:
        """The name of the module or parameter, with `{layer}` in place of a layer's number."""
        if self.source is None:
            return ""
        holder = self.source.module if isinstance(self.source, SiteGroup) else self.source
        return joined(holder.path, self.suffix) if self.suffix else holder.path

    def within(self, named: Callable[[str], bool]) -> Spot:
        """Return the spot restricted to layers whose module name satisfies `named`."""
        holder = self.source.module if isinstance(self.source, SiteGroup) else self.source
        if holder is None:
            return self
        if not self.layers:
            return self if named(holder.path) else replace(self, n=0)
        layers = tuple(n for n in self.layers if named(holder.path.replace("{layer}", str(n))))
        return replace(self, n=len(layers), layers=layers)


@dataclass(frozen=True)
class NamedSites:
    """Locations that are named one by one, instead of by roles or suffixes.

    sites: the locations of tensors per site. named: a predicate for module names, for the tensors of a method without
    targets. apart: for tensors with separate locations, their sites, whatever roles they declare. own: sites with their
    own hyperparameters.
    """

    sites: tuple[SiteGroup, ...]
    named: Callable[[str], bool]
    apart: Mapping[str, tuple[SiteGroup, ...]] = field(default_factory=dict)
    own: Mapping[SiteGroup, Mapping[str, Value]] = field(default_factory=dict)

    def spot_groups(
        self, name: str, measured: Measure, inventory: Inventory, targeted: Sequence[SiteGroup]
    ) -> Iterator[tuple[SpotGroup, Mapping[str, Value]]]:
        """Yield a tensor's locations among the chosen ones, with the hyperparameters set there."""
        owned: dict[tuple[tuple[str, Value], ...], list[tuple[int, Spot]]] = {}
        for number, spot in enumerate(self._spots(name, measured, inventory, targeted)):
            own = self.own.get(spot.source, {}) if isinstance(spot.source, SiteGroup) else {}
            owned.setdefault(tuple(own.items()), []).append((number, spot))
        for items, numbered in owned.items():
            yield from ((where, dict(items)) for where in alike(measured, numbered))

    def _spots(
        self, name: str, measured: Measure, inventory: Inventory, targeted: Sequence[SiteGroup]
    ) -> Iterator[Spot]:
        if name in self.apart:
            anywhere = measured.tensor.model_copy(update={"roles": None})
            yield from _sites(anywhere, inventory, self.apart[name])
            return
        found = spots(measured, inventory, targeted)
        if targeted or measured.tensor.per == "model":
            yield from found
        else:
            yield from (kept for spot in found if (kept := spot.within(self.named)).n)


def flattened(entry: MethodEntry, included: Callable[[str], MethodEntry]) -> tuple[Part, ...]:
    """Return the entry and all included entries, parents first. Raises UsageError for a cycle, and for too many.

    included: a function from a method's id to its entry.
    """
    parts = [Part("", entry, -1, {}, {})]
    for index, part in enumerate(parts):
        for include in part.entry.includes:
            if cycle := _cycle(parts, index, include.method):
                raise UsageError(f"{entry.id}: its includes never end: {shown(' -> '.join(cycle))}")
            inner = included(include.method)
            parts.append(Part(f"{part.prefix}{include.as_}.", inner, index, include.rename, include.set))
            if len(parts) > MOST_PARTS:
                raise UsageError(f"{entry.id}: found more than {MOST_PARTS} includes of includes; expected fewer")
    return tuple(parts)


def _cycle(parts: Sequence[Part], index: int, method: str) -> list[str]:
    """Return the chain of includes from a method to itself, if a part includes one of those above it."""
    chain = [method]
    while index >= 0:
        chain.append(parts[index].entry.id)
        if chain[-1] == method:
            return chain[::-1]
        index = parts[index].parent
    return []


def sites(
    parts: Sequence[Part], part: Part, inventory: Inventory, targets: Sequence[str] | None, suffixes: Suffixes | None
) -> list[SiteGroup]:
    """Return the linear modules that a part acts on; an empty list if it declares no targets.

    The caller gives roles or suffixes. Without them the default roles apply, without those that the model lacks. If the
    whole method declares its own targets, they replace those of its parts. Raises UsageError.
    """
    declared = parts[0].entry.targets or part.entry.targets
    if declared is None or part.entry.targets is None:
        return []
    if suffixes is not None:
        return inventory.resolve_suffixes(suffixes)
    if targets is None:
        return _default_sites(part.entry, declared.default, inventory)
    found = inventory.resolve_roles(targets)
    for site in found:
        if not any(role_matches(pattern, site.role, site.stack) for pattern in declared.allowed):
            allowed = ", ".join(declared.allowed)
            raise UsageError(f"{parts[0].entry.id} cannot target role {shown(site.role)!r}; allowed: {allowed}")
    return found


def _default_sites(entry: MethodEntry, defaults: Sequence[str], inventory: Inventory) -> list[SiteGroup]:
    key = ("default", *defaults)
    if key not in inventory.memo:
        present = [role for role in defaults if inventory.has_role(role)]  # only some families have all of them
        inventory.memo[key] = inventory.resolve_roles(present) if present else []
    found: list[SiteGroup] = inventory.memo[key]
    if not found:
        raise UsageError(f"{entry.id} finds none of its default targets in {inventory.backbone.id}; name others")
    return found


@dataclass
class SpotGroup:
    """Spots with equal values of all dimensions that a tensor's sizes depend on.

    dims: dimensions that formulas may name besides the model's. spots: each with its number among the tensor's spots.
    n: the number of locations in all spots together.
    """

    dims: Mapping[str, Any]
    spots: list[tuple[int, Spot]]
    n: int

    @cached_property
    def layers(self) -> dict[int, int]:
        """The number of locations in each layer."""
        return dict(Counter(layer for _, spot in self.spots for layer in spot.layers))


def spot_groups(measured: Measure, inventory: Inventory, targeted: Sequence[SiteGroup]) -> list[SpotGroup]:
    """Return the locations of a tensor, grouped by equal dimensions."""
    key = measured.spread, tuple(map(id, targeted)) if measured.tensor.per in ("site", "role") else None
    if key not in inventory.memo:
        # The cache also references the targeted modules, so that no other objects can get their ids.
        inventory.memo[key] = targeted, alike(measured, enumerate(spots(measured, inventory, targeted)))
    found: list[SpotGroup] = inventory.memo[key][1]
    return found


def alike(measured: Measure, numbered: Iterable[tuple[int, Spot]]) -> list[SpotGroup]:
    """Group spots that have equal values of all dimensions that the tensor's formulas name."""
    groups: dict[tuple[Any, ...], SpotGroup] = {}
    for number, spot in numbered:
        key = (spot.shape, *[spot.dims.get(name) for name in measured.names])
        group = groups.get(key)
        if group is None:
            groups[key] = SpotGroup(spot.dims, [(number, spot)], spot.n)
        else:
            group.spots.append((number, spot))
            group.n += spot.n
    return list(groups.values())


def spots(
    measured: Measure, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    """Yield every spot of a tensor, in the network's order; split by layer only if sizes depend on the layer.

    A formula over the layer is undefined outside the layers, so those locations are omitted.
    """
    for spot in _SCOPES[measured.tensor.per](measured.tensor, inventory, targeted):
        if not measured.by_layer:
            yield spot
        elif measured.layered:
            if spot.layers:
                yield spot
        else:
            for layer in spot.layers:
                yield Spot(spot.role, 1, spot.dims | {"layer": layer}, spot.source, (layer,), spot.shape, spot.suffix)


def _wanted(tensor: Tensor, role: str, stack: str) -> bool:
    return tensor.roles is None or any(role_matches(pattern, role, stack) for pattern in tensor.roles)


def _model(
    tensor: Tensor, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    yield Spot("", 1, {})


def _sites(
    tensor: Tensor, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    for site in targeted:
        if _wanted(tensor, site.role, site.stack):
            dims = {"d_in": site.d_in, "d_out": site.d_out, "bias": int(site.bias)}
            yield Spot(site.role, len(site.layers) or 1, dims, site, site.layers)


def _roles(
    tensor: Tensor, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    sharing: dict[tuple[str, int, int], int] = {}
    for site in targeted:
        if _wanted(tensor, site.role, site.stack):
            key = site.role, site.d_in, site.d_out
            sharing[key] = sharing.get(key, 0) + (len(site.layers) or 1)
    for (role, d_in, d_out), n in sharing.items():
        yield Spot(role, 1, {"d_in": d_in, "d_out": d_out, "n_sharing": n})


def _blocks(
    tensor: Tensor, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    for block in inventory.blocks:
        if block.kind == tensor.per and _wanted(tensor, block.name, block.stack):
            dims = block.dims | {"cross": int(block.name == "xattn")}
            yield Spot(block.name, len(block.layers), dims, block, block.layers)


def _parameters(
    tensor: Tensor, inventory: Inventory, targeted: Sequence[SiteGroup]
) -> Iterator[Spot]:
    for module in inventory.modules:
        if not module.pretrained or not _wanted(tensor, module.role, module.stack):
            continue
        if tensor.per == "norm" and module.kind != "norm":
            continue
        for suffix, shape in module.parameters:
            if tensor.per != "bias" or suffix == "bias":
                rows, columns = shape if module.kind in LINEAR and suffix == "weight" else (0, 0)
                outputs = module.d_out if module.kind in (*LINEAR, "conv") and suffix == "weight" else 0
                dims = {
                    "numel": math.prod(shape), "rows": rows, "columns": columns, "outputs": outputs,
                    "bias": int(suffix == "bias"),
                }  # fmt: skip
                own = shape if tensor.selecting else None
                yield Spot(module.role, len(module.layers) or 1, dims, module, module.layers, own, suffix)


_SCOPES = {
    "model": _model, "site": _sites, "role": _roles, "attention": _blocks, "mlp": _blocks, "layer": _blocks,
    "weight": _parameters, "bias": _parameters, "norm": _parameters,
}  # fmt: skip
