"""Where the tensors that a method declares must be found in a live model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from peftonomy import Place
from peftonomy._schema import OF_PARAMETERS
from reference_impls import _kit as kit

Host = tuple[str, str]
"""A module by its path, and where a method holds on to a part of it only, that part."""


class Naming:
    """The names of declared tensors in models that are like `plain`, to which no method has been applied."""

    def __init__(self, plain: nn.Module):
        self.plain = plain
        self._sites: dict[str, list[kit.Site]] = {}
        self._blocks: dict[tuple[str, str, str, int | None], list[Host]] = {}

    def names(self, method: str, places: Iterable[Place], model: nn.Module) -> list[list[str]]:
        """For every place, the live tensors it stands for (several where it has copies, or a count without a shape).

        Raises AssertionError where two tensors could be meant.
        """
        live = list(model.state_dict())
        found = []
        for place in places:
            hosts = [] if place.spec.selecting else self._hosts(place)
            options = [place.path] if place.spec.selecting else [_name(method, host, place) for host in hosts]
            matching = [[n for n in live if n == o or n.startswith(f"{o}.")] for o in options]
            hits = [names for names in matching if names]
            assert len(hits) <= 1, f"{place.tensor} exists more than once at {place.path}: {hits}"
            found.append(hits[0] if hits else [])
        return found

    def _hosts(self, place: Place) -> Sequence[Host]:
        """The modules that may hold a place's tensor: in a block, any of its modules."""
        if place.spec.per == "site":
            return [_host(site) for site in self._at(place.role) if site.path == place.path]
        if place.spec.per == "model":
            return [("", "")]
        if place.spec.per == "role":            # held by the model, for all layers: <id>.<role>.<tensor>
            return [("", place.role.replace(".", "_"))]
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
