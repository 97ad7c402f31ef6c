"""Count adapters that were trained before and that a configuration names by their folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones.config import read_json
from ..backbones.modules import SiteGroup
from ..schema.base import Value

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory
    from ..schema.library import Loads
    from .adapter import Adapter
    from .arguments import Arguments

__all__ = ["Loaded", "loaded"]

Read = Callable[[str, dict[str, Any]], "Adapter"]
"""A function that reads a configuration; the text is its name in messages."""


@dataclass(frozen=True)
class Loaded:
    """The adapters in the files: their modules, and the parameters that they add and of these the trained ones."""

    adapters: tuple[Adapter, ...]
    trained: int
    added: int

    @property
    def names(self) -> dict[str, int]:
        """The names for formulas."""
        return {"loaded": 1, "loaded_trained": self.trained, "loaded_added": self.added}

    def alike(self, names: Iterable[str]) -> dict[str, Value] | None:
        """Return the values of these hyperparameters if all adapters have the same on the same modules, else None."""
        first, *others = [
            ({n: a.cost.hyperparameters.get(n) for n in names}, a.patterns, [site.paths() for site in _sites(a)])
            for a in self.adapters
        ]
        if first[1] or any(other != first for other in others):
            return None
        return {name: value for name, value in first[0].items() if value is not None}

    @property
    def sites(self) -> tuple[SiteGroup, ...]:
        """The modules that at least one of the adapters changes."""
        found: dict[int, SiteGroup] = {}
        for site in (site for adapter in self.adapters for site in _sites(adapter)):
            same = found.get(id(site.module), replace(site, layers=()))
            found[id(site.module)] = replace(same, layers=tuple(sorted({*same.layers, *site.layers})))
        return tuple(found.values())


def _sites(adapter: Adapter) -> list[SiteGroup]:
    return [site for group in adapter.plan.sites for site in group]


def loaded(arguments: Arguments, spec: Loads, inventory: Inventory, read: Read) -> Loaded | None:
    """Read the files of the adapters that a configuration names; None if they are not on this computer.

    Raises ConfigError for a file that the library cannot load here, and where the counts need files that are absent.
    """
    library, found = arguments.library, arguments.values.get(spec.argument)
    folders = found if isinstance(found, Mapping) else {}
    trained = {str(number) for number in range(len(folders))} & folders.keys() if arguments.values[spec.trained] else ()
    if arguments.values[spec.trained] and not trained:
        note = f"{library.name} calls the adapters 0, 1 and so on, and trains none that has another name here."
        arguments.notes.append(f"{spec.trained}: {note}")
    if not folders or not all(_is_there(folder, library.file) for folder in folders.values()):
        if trained:
            expected = f"false, or folders with {library.file} in {spec.argument}, which give the adapters' sizes"
            raise arguments.refuse(spec.trained, True, expected)
        arguments.notes.append(f"{spec.argument}: without their files the adapters' modules and ranks are assumed.")
        return None
    adapters = {key: _one(arguments, spec, f"{spec.argument}.{key}", folder, read) for key, folder in folders.items()}
    sizes = [adapter.reported.total - inventory.total for adapter in adapters.values()]
    return Loaded(tuple(adapters.values()), sum([n for i, n in enumerate(sizes) if str(i) in trained]), sum(sizes))


def _is_there(folder: object, file: str) -> bool:
    try:
        return isinstance(folder, str) and Path(folder, file).is_file()
    except (OSError, ValueError):  # a name that no system accepts
        return False


def _one(arguments: Arguments, spec: Loads, argument: str, folder: str, read: Read) -> Adapter:
    library = arguments.library
    raw = read_json(folder, library.file)
    if raw.get(library.type_key) != spec.type:
        raise arguments.refuse(argument, raw.get(library.type_key), f"an adapter of type {spec.type}")
    adapter = read(f"{arguments.source}, {argument}", raw)
    if adapter.extras:
        raise arguments.refuse(argument, adapter.extras[0].name, "an adapter that trains nothing besides its factors")
    sites = _sites(adapter)
    other = next((site.module.path for site in sites if not site.module.path.startswith(spec.below)), None)
    if other is not None:
        expected = f"an adapter of modules in {spec.below.rstrip('.')}: {library.name} does not load others here"
        raise arguments.refuse(argument, other, expected)
    kinds = [site.module.path for site in sites if site.module.kind == "parameter"]
    if kinds:
        raise arguments.refuse(argument, kinds[0], "an adapter of modules: parameters get no weights from the router")
    return adapter
