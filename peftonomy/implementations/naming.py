"""Map a method's declared tensors to their names in a live model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from peftonomy.costs.plan import Place
from peftonomy.schema.names import OF_PARAMETERS

from .live import kit

STORED = ("values", "indices", "bits", "shared")
"""The kinds of stored values in a checkpoint, in any format."""
Host = tuple[str, str]
"""A module by its path, and the part of it that a method acts on, if not the whole."""


def ours(implementation: Any, name: str) -> str:
    """Return a live name as in a reference implementation.

    A third-party implementation may use other names. Its `NAMES` maps the ends of its names to ours, for example
    `lora_A.default.weight` to `lora.A`.
    """
    for theirs, mine in getattr(implementation, "NAMES", {}).items():
        if f".{name}".endswith(f".{theirs}"):
            return name.removesuffix(theirs) + str(mine)
    return name


def state(implementation: Any, model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of a checkpoint, tied ones once, by our names."""
    live = dict(model.named_parameters())
    twice = {n for n, p in model.named_parameters(remove_duplicate=False)} - {*live}
    held = model.state_dict(keep_vars=True)
    return {ours(implementation, name): value for name, value in held.items() if name not in twice}


def restore(implementation: Any, model: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into a model with the method freshly applied."""
    if hasattr(implementation, "unpack"):
        implementation.unpack(model, held)
        return
    live = state(implementation, model)
    for name, value in held.items():
        live[name].data = value.to(live[name]).clone()


class Naming:
    """The names of declared tensors in models with the structure of `plain`, to which no method has been applied."""

    def __init__(self, plain: nn.Module):
        self.plain = plain
        self._sites: dict[str, list[kit.Site]] = {}
        self._blocks: dict[tuple[str, str, str, int | None], list[Host]] = {}

    def names(self, method: str, places: Iterable[Place], live: Sequence[str]) -> list[list[str]]:
        """Return the live names of each location (several for copies, or for a count without a shape).

        Raises AssertionError if two tensors match.
        """
        found = []
        for place in places:
            hosts = [] if place.spec.selecting else self._hosts(place)
            options = [place.path] if place.spec.selecting else [_name(method, host, place) for host in hosts]
            matching = [[n for n in live if n == o or n.startswith(f"{o}.")] for o in options]
            hits = [names for names in matching if names]
            assert len(hits) <= 1, f"{place.tensor} exists more than once at {place.path}: {hits}"
            found.append(hits[0] if hits else [])
        return found

    def stored(
        self, implementation: Any, method: str, places: Sequence[Place], model: nn.Module
    ) -> dict[str, Tensor]:
        """Return the contents of one task's checkpoint, in the form of the finished model."""
        if hasattr(implementation, "pack"):
            packed: dict[str, Tensor] = implementation.pack(model)
            return packed
        live = state(implementation, model)
        named = zip(places, self.names(method, places, list(live)), strict=True)
        kept = [names for place, names in named if any(part.as_ in STORED for part in place.spec.stored)]
        return {name: live[name].detach().clone() for names in kept for name in names}

    def _hosts(self, place: Place) -> Sequence[Host]:
        """Return the modules that may contain a location's tensor: for a block, any of its modules."""
        if place.spec.per == "site":
            return [_host(site) for site in self._at(place.role) if site.path == place.path]
        if place.spec.per == "model":
            return [("", "")]
        if place.spec.per == "role":            # owned by the model, for all layers: <id>.<role>.<tensor>
            names = place.role, kit.shared_name(place.role, place.d_in, place.d_out)
            return [("", name.replace(".", "_")) for name in names]
        if place.spec.per in OF_PARAMETERS:     # a new tensor beside a parameter: <module>.<id>.weight.<tensor>
            path, _, suffix = place.path.rpartition(".")
            return [(path, suffix)]
        return self._inside()[place.spec.per, place.role, place.stack, place.layer]

    def _at(self, role: str) -> list[kit.Site]:
        if role not in self._sites:
            self._sites[role] = kit.sites(self.plain, [role])
        return self._sites[role]

    def _inside(self) -> dict[tuple[str, str, str, int | None], list[Host]]:
        if not self._blocks:
            for block in (b for kind in ("attention", "mlp", "layer") for b in kit.blocks(self.plain, kind)):
                hosts = [(block.path, "")]
                if block.kind != "layer":
                    hosts += map(_host, block.sites.values())
                self._blocks[block.kind, block.name, block.stack, block.layer] = list(dict.fromkeys(hosts))
        return self._blocks


def _host(site: kit.Site) -> Host:
    return site.path, "" if site.whole else site.role.replace(".", "_")


def _name(method: str, host: Host, place: Place) -> str:
    path, part = host
    *outer, tensor = place.tensor.split(".")
    return ".".join(filter(None, [path, method, *outer, part, tensor]))
