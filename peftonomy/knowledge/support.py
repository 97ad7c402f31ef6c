"""The matrix of support: each method in each library and trainer, with its name there, the release and the base models.

A fact that no file declares is absent or null: it is unknown, not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..catalogue.records import Records
from ..errors import UnknownName
from ..schema.support import ASPECTS, Ability, Aspect

if TYPE_CHECKING:
    from ..schema.implementations import Implementation
    from ..schema.library import Library
    from ..schema.support import Key, Trainer

__all__ = ["offered", "provider", "providers", "records"]


def providers(kb: Records[Any]) -> dict[str, Library | Trainer]:
    """Return every library and trainer by its id, libraries first."""
    return {**{key: kb.libraries[key] for key in kb.libraries}, **{key: kb.trainers[key] for key in kb.trainers}}


def provider(kb: Records[Any], name: str) -> Library | Trainer:
    """Return the library or trainer with this id or package. Raises UnknownName."""
    known = providers(kb)
    found = next((one for one in known.values() if name in (one.id, one.package)), None)
    if found is None:
        raise UnknownName("library", name, known, "(or trainer)")
    return found


def offered(kb: Records[Any], method: str) -> tuple[str, ...]:
    """Return the ids of the libraries and trainers that have a method, with `official` for its authors' code."""
    trainers = (key for key in kb.trainers if method in kb.trainers[key].methods)
    return tuple(sorted({*kb[method].entry.implementations, *trainers}))


def records(kb: Records[Any]) -> Iterator[dict[str, Any]]:
    """Yield one record for each method in a library or trainer, by method."""
    for method in kb:
        for key, library in kb.libraries.items():
            found = kb[method].entry.implementations.get(key)
            if found is not None and (found.symbol or found.type):
                yield _of_library(method, library, found)
        yield from (_of_trainer(method, one) for one in kb.trainers.values() if method in one.methods)


def _of_library(method: str, library: Library, found: Implementation) -> dict[str, Any]:
    known, support = library.defaults(found.type) if found.type else {}, library.support.get(method)
    selected = "".join(f", {name}={value!r}" for name, value in found.set.items())
    return {
        "method": method, "in": library.id, "kind": "library", "version": library.version,
        "name": f"{found.symbol or found.type}{selected}",
        "since": support.since if support else None, "commit": support.commit if support else None,
        "set": dict(found.set), "scale": None, "note": None, "fails": None,
        "keys": {
            ours: {"key": theirs, "type": None, "default": known.get(theirs), "note": None}
            for ours, theirs in found.rename.items()
        },
        "source": found.source, "base": _base(library.abilities(method)),
    }  # fmt: skip


def _of_trainer(method: str, trainer: Trainer) -> dict[str, Any]:
    offer = trainer.offer(method)
    return {
        "method": method, "in": trainer.id, "kind": "trainer", "version": trainer.version,
        "name": trainer.named(method), "since": offer.since, "commit": offer.commit, "set": dict(offer.set),
        "scale": offer.scale.source if offer.scale else None, "note": offer.note,
        "fails": offer.fails,
        "keys": {ours: _key(key) for ours, key in offer.keys.items()},
        "source": offer.source, "base": _base(trainer.abilities(method)),
    }  # fmt: skip


def _key(key: Key) -> dict[str, Any]:
    found: dict[str, Any] = key.model_dump()
    return found


def _base(found: Mapping[Aspect, Ability]) -> dict[str, Any]:
    return {name: found[name].model_dump() if name in found else None for name in ASPECTS}
