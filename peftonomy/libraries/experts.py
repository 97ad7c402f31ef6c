"""Replace older names of experts in a configuration by the names of today's tensors, as the library does.

In older releases of `transformers` each expert had linear modules of its own. Today one parameter contains the matrices
of all experts, and sometimes two of these matrices side by side. The library adapts the parameter instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory
    from ..schema.library import OldExperts
    from .arguments import Arguments

from .selected import ALL_LINEAR, Selected

__all__ = ["convert"]


def convert(arguments: Arguments, inventory: Inventory, saved: Sequence[str], *, late: bool) -> None:
    """Change the values of a configuration for a model whose experts had other names before.

    Raises ConfigError if the library refuses these targets.
    """
    model_type = arguments.backbone.family.model_type
    old = next((one for one in arguments.library.experts if model_type in one.models), None)
    if old is None or not arguments.spec.converts:
        return
    values, targets = arguments.values, arguments.raw.get("target_modules")
    if targets is None:
        if not values.get("target_parameters"):
            expected = f"names: {arguments.library.name} has no default for a model with experts"
            raise arguments.refuse("target_modules", "nothing", expected)
        targets = []
    if isinstance(targets, str):
        selected = Selected(arguments, inventory, saved, late=late)
        selected.warn_of_others()
        targets = _words(selected, targets, old)
        if not targets:  # the library leaves the expression as it is
            return
    if not isinstance(targets, list) or not all(isinstance(word, str) for word in targets):
        raise arguments.refuse("target_modules", targets, "names of modules, or one regular expression")
    found = {word: name for word in targets if (name := _old_name(word, old)) is not None}
    replaced = {found[word]: old.names[found[word]] for word in found}
    changed: dict[str, dict[str, Any]] = {"rank_pattern": {}, "alpha_pattern": {}}
    for new, parts in old.fused.items():
        there = [part for part in parts if part in replaced]
        if there and len(there) < len(parts):
            absent = ", ".join(part for part in parts if part not in there)
            expected = f"{absent} as well: {arguments.library.name} adapts {new}, which contains all of them"
            raise arguments.refuse("target_modules", ", ".join(there), expected)
        for argument in changed if there else ():
            whole = values[arguments.spec.patterns[argument].sets]
            if isinstance(whole, int | float):
                changed[argument][rf".*\.{re.escape(new)}"] = whole * len(parts)
    parameters = values.get("target_parameters") or []
    arguments.values = {
        **values, "target_modules": [word for word in targets if word not in found],
        "target_parameters": [*dict.fromkeys([*parameters, *replaced.values()])] or None,
        **{argument: {**(values[argument] or {}), **more} for argument, more in changed.items()},
    }  # fmt: skip
    if replaced:
        names = f"{', '.join(replaced)} mean {', '.join(dict.fromkeys(replaced.values()))}"
        arguments.notes.append(f"target_modules: in {arguments.library.name} {names}, for all experts together.")


def _old_name(word: str, old: OldExperts) -> str | None:
    """Return the older name that a target ends with."""
    return next((name for name in old.names if f".{word}".endswith(f".{name}")), None)


def _words(selected: Selected, targets: str, old: OldExperts) -> list[str]:
    """Return the last parts of the names that one expression matches, in any layer."""
    if targets.lower() == ALL_LINEAR:
        return sorted({_last(path) for path in selected.linear} | old.names.keys())
    found = {_last(name) for name in selected.names if selected.named(name)}
    owners: dict[str, set[str]] = {}
    for owner, name in (name.rpartition(".")[::2] for name in selected.parameters):
        owners.setdefault(name, set()).add(owner)
    for name, new in old.names.items():  # a name of old that no tensor has today
        if name not in found and any(selected.named(f"{owner}.{name}") for owner in owners.get(new, ())):
            found.add(name)
    return sorted(found)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
