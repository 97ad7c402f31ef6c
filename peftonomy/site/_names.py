"""Names that mean several methods, and words that settings of several methods share."""

from __future__ import annotations

from collections.abc import Iterator

from ._site import Site, View

__all__ = ["key", "settings", "shared"]


def key(name: str) -> str:
    """A name as a reader types it: only letters and digits count, in small letters."""
    return "".join(c for c in name.lower() if c.isalnum())


def shared(site: Site) -> list[View]:
    """Every name that means several methods, with each of them: its year, its place, and how it comes by the name.

    Names are ids, short and full names and aliases of entries; a setting's name is added where a method has the same.
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
    """Method and name; how it is written comes before its id."""
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
    """Every hyperparameter's name that several methods have, with its meanings and the methods of each meaning."""
    meanings: dict[str, dict[str, list[View]]] = {}
    for m in site.kb.values():
        for name, spec in m.entry.hyperparameters.items():
            meanings.setdefault(name, {}).setdefault(spec.meaning, []).append({"id": m.id, "name": m.name})
    found: list[View] = [
        {"name": name, "n": sum(map(len, by.values())), "meanings": list(by.items())} for name, by in meanings.items()
    ]
    return sorted((row for row in found if row["n"] > 1), key=lambda row: row["name"])
