"""Find the library of a configuration, and read it by that library's rules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones.config import read_json
from ..errors import UsageError, shown

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..catalogue.records import Records
    from ..schema.library import Library

from .adapter import Adapter
from .arguments import NESTED
from .named import read_named

__all__ = ["DEFAULT", "read_adapter"]

DEFAULT = "hf_peft"
"""The library whose configurations are read unless another one is named, or the configuration's keys decide."""


def read_adapter(
    kb: Records[Any],
    config: str | Path | Mapping[str, Any],
    model: str | Path | Mapping[str, Any] | Backbone,
    *,
    library: str | None,
    method: str | None,
    task: str | None,
    num_labels: int,
    dtype: str,
) -> Adapter:
    """Read a configuration. See `KnowledgeBase.adapter`."""
    spec, source, raw = _found(kb, config, library)
    if spec.builds:
        from .located import read_located  # only when needed: most configurations name modules

        return read_located(kb, spec, source, raw, kb.backbone(model).inventory(task, num_labels), method, dtype)
    return read_named(kb, spec, source, raw, kb.backbone(model), method, task, num_labels, dtype)


def _found(
    kb: Records[Any], config: str | Path | Mapping[str, Any], library: str | None
) -> tuple[Library, str, dict[str, Any]]:
    """Return a configuration's library, its name in messages and its content."""
    named = kb.libraries[DEFAULT if library is None else library]
    others = [] if library is not None else [name for name in kb.libraries if name != DEFAULT]
    if isinstance(config, str) and not _is_path(config):
        shorts = [one for one in (named, *(kb.libraries[name] for name in others)) if one.shorthands]
        if shorts:
            return shorts[0], shown(config), {NESTED: config}
    if isinstance(config, Mapping):
        source, raw = "configuration", dict(config)
    else:
        if not isinstance(config, str | Path):
            raise UsageError(f"configuration: found {shown(config)}; expected the path or the content of {named.file}")
        source, raw = str(config), read_json(config, named.file)
    spec = named if _is_of(named, raw) else next((o for n in others if _is_of(o := kb.libraries[n], raw)), named)
    return spec, source, raw


def _is_path(text: str) -> bool:
    """Return True if a text is an existing path, or can only be meant as one."""
    return "/" in text or os.sep in text or text.endswith(".json") or os.path.exists(text)  # noqa: PTH110


def _is_of(library: Library, raw: Mapping[str, Any]) -> bool:
    """Return True if a saved configuration has keys that only this library's files have."""
    if library.type_key in raw:
        return True
    plain = library.type_saved_as(None) if library.builds else None
    nested = isinstance(raw.get(NESTED), Mapping | str)
    return plain is not None and (nested or not raw.keys().isdisjoint(library.types[plain].needs))
