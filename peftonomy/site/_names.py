"""Find names shared by several methods, and hyperparameter names shared by several methods."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from ._site import Site, View

__all__ = ["key", "settings", "shared"]


def key(name: str) -> str:
    """Return a search key for a name: its letters and digits, in lower case and not raised."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).lower() if c.isalnum())


def shared(site: Site) -> list[View]:
    """Return every name that several methods share, with each method's year, category and spellings.

    Names are ids, short and full names and aliases of entries. The name of a hyperparameter is included if a method has
    the same name.
    """
    called: dict[str, dict[str, list[str]]] = {}
    for method, name in _called(site):
        spellings = called.setdefault(key(name), {}).setdefault(method, [])
        if name not in spellings:
            spellings.append(name)
    of_settings: dict[str, dict[str, list[str]]] = {}
    for m in site.kb.values():
        for name in m.entry.hyperparameters:
            if key(name) in called:
                of_settings.setdefault(key(name), {}).setdefault(m.id, []).append(name)
    found: list[View] = []
    for word, methods in called.items():
        others = {k: v for k, v in of_settings.get(word, {}).items() if k not in methods}
        if word and len(methods) + len(others) > 1:
            rows = [_row(site, m, spellings, False) for m, spellings in methods.items()]
            rows += [_row(site, m, spellings, True) for m, spellings in others.items()]
            rows.sort(key=lambda r: (r["setting"], r["year"], r["name"].lower(), r["id"]))
            found.append({"key": word, "name": rows[0]["as"][0], "methods": rows})
    return sorted(found, key=lambda row: row["key"])


def _called(site: Site) -> Iterator[tuple[str, str]]:
    """Yield each method with each of its names; the written form precedes the id."""
    for m in site.kb.values():
        for name in (m.name, m.entry.full_name, *m.entry.aliases, m.id):
            yield m.id, name


def _row(site: Site, method: str, spellings: list[str], setting: bool) -> View:
    known = site.kb[method]
    return {
        "id": method, "name": known.name, "year": known.year, "as": spellings,
        "setting": setting, "category": " › ".join(n for n, _ in site.trail(known.category)[1:]),
        "hue": site.hue(known.category),
    }  # fmt: skip


def settings(site: Site) -> list[View]:
    """Return every hyperparameter name that several methods have, with its meanings and the methods of each meaning."""
    meanings: dict[str, dict[str, list[View]]] = {}
    for m in site.kb.values():
        for name, spec in m.entry.hyperparameters.items():
            meanings.setdefault(name, {}).setdefault(spec.meaning, []).append({"id": m.id, "name": m.name})
    found: list[View] = [
        {"name": name, "n": sum(map(len, by.values())), "meanings": list(by.items())} for name, by in meanings.items()
    ]
    return sorted((row for row in found if row["n"] > 1), key=lambda row: row["name"])
