"""The facets for finding methods: the taxonomy's and those derived from entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..knowledge.base import Method
from ..schema.taxonomy import SurveyNode
from ._site import Site, View

__all__ = ["DERIVED", "Question", "classes", "counts", "names", "questions", "rows", "tokens", "words"]

DERIVED = {
    "merge": ("Merges into the weights", {"exact": "yes, exactly", "none": "no"}),
    "stores": (
        "Stores",
        {
            "values": "numbers", "bits": "mask bits", "indices": "positions", "seed": "a random seed",
            "none": "less than it trains",
        },
    ),
    "identity_at_init": (
        "At the first step",
        {"exact": "equals the base model", "approximate": "close to it", "none": "differs from it"},
    ),
    "scope": (
        "Has tensors",
        {
            "site": "at targeted modules", "role": "for every role, over all layers",
            "attention": "in attention blocks", "mlp": "in feed-forward blocks",
            "layer": "in layers", "model": "once per model", "weight": "for every weight", "bias": "for every bias",
            "norm": "for every norm",
        },
    ),
    "quantised": ("Over a quantised backbone", {"1": "yes", "0": "no"}),
}  # fmt: skip
"""Facts of an entry that are facets too: heading, and a word for each value."""


@dataclass(frozen=True)
class Question:
    """A facet in the search form: its values in order, each with a word."""

    id: str
    name: str
    meaning: str = ""
    values: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)


def questions(site: Site) -> list[Question]:
    """Return all facets except the category and the library: the taxonomy's, then those derived from entries."""
    found = [
        Question(key, f.name, f.meaning, {v: v.replace("_", " ") for v in f.values}, f.meanings())
        for key, f in site.kb.taxonomy.facets.items()
    ]
    return found + [Question(key, name, "", dict(values)) for key, (name, values) in DERIVED.items()]


def words(method: Method) -> dict[str, list[str]]:
    """Return the method's values by facet, as text; the category includes its ancestors."""
    found: dict[str, list[str]] = {}
    for key, value in method.kb.facts[method.id].items():
        found[key] = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    steps = method.category.split(".")
    found["category"] = [".".join(steps[: i + 1]) for i in range(len(steps))]
    return found


def names(site: Site, method: Method) -> list[str]:
    """Return the searchable names of a method: names, aliases, classes in libraries, arXiv ids, authors."""
    entry = method.entry
    found = [entry.id, entry.name, entry.full_name, *entry.aliases]
    found += [i.symbol for i in entry.implementations.values() if i.symbol]
    reference = site.kb.references.get(entry.source.partition("#")[0])
    if reference is not None:
        found += [reference.arxiv or "", reference.title, *(a.split()[-1] for a in reference.authors[:1])]
    return list(dict.fromkeys(n for n in found if n))


def rows(site: Site) -> dict[str, View]:
    """Return the finder's data for each method: its values as words, and its names."""
    asked, found = ["category", "library", *(q.id for q in questions(site))], {}
    for method in site.kb.values():
        known = words(method)
        facets = " ".join(f"{key}:{value}" for key in asked for value in known.get(key, []))
        found[method.id] = {"facets": facets, "names": " | ".join(names(site, method))}
    return found


HOME = "peftonomy"
"""The id of the taxonomy's own tree, beside those of other surveys."""


def tokens(site: Site, method: str, category: str) -> str:
    """Return the filter tokens of the taxonomy picture: facets as `question:value`, classes as `class:survey/path`."""
    known = words(site.kb[method]) if method in site.kb else {}
    found = [f"{q.id}:{value}" for q in questions(site) for value in known.get(q.id, [])]
    steps = category.split(".")
    found += [f"class:{HOME}/{'.'.join(steps[: i + 1])}" for i in range(len(steps))]
    for key, survey in site.kb.taxonomy.surveys.items():
        for path in survey.filed(method):
            ids = [node.id for node in path]
            found += [f"class:{key}/{'.'.join(ids[: i + 1])}" for i in range(len(ids))]
    return " ".join(dict.fromkeys(found))


def classes(site: Site) -> Iterator[View]:
    """Yield the classes of every survey, ours first, with the ids of `tokens`."""
    ours = [(n.id, n.name) for n in site.kb.taxonomy.categories.values()]
    yield {"name": "This taxonomy", "values": [_class(HOME, key, name) for key, name in ours]}
    for key, survey in site.kb.taxonomy.surveys.items():
        yield {"name": survey.name, "values": [_class(key, path, name) for path, name in _paths(survey.tree)]}


def _class(survey: str, path: str, name: str) -> View:
    return {"value": f"{survey}/{path}", "name": "– " * path.count(".") + name}


def _paths(nodes: Sequence[SurveyNode], above: str = "") -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield above + node.id, node.name
        yield from _paths(node.children, f"{above}{node.id}.")


def counts(site: Site) -> dict[str, dict[str, int]]:
    """Return the number of methods by facet and value."""
    found: dict[str, dict[str, int]] = {}
    for method in site.kb.values():
        for key, values in words(method).items():
            for value in values:
                found.setdefault(key, {})[value] = found.get(key, {}).get(value, 0) + 1
    return found
