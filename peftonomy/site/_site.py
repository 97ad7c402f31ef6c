"""Shared parts of all pages: the knowledge base, templates, formulas, colours, citations and small views."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup

from ..costs.plan import Plan
from ..errors import UsageError
from ..files.bibliography import Reference
from ..implementations.located import FOLDER
from ..knowledge.base import KnowledgeBase, Method, data_root
from ..schema.search import SearchWords, load_search_words
from ..schema.settings import Settings, load_settings
from ._tex import shared_tex
from ._text import count, front_matter, inline, percent, safe_url

__all__ = ["HUES", "Site", "View"]

HUES = 8
"""The number of colours in the style sheet for the roots of the category tree."""
MOST_AUTHORS = 8
PREVIEWS = {
    "index.md": "home", "method.md": "method", "model.md": "model", "calculator.md": "tool", "compare.md": "tool",
    "planner.md": "tool", "idea.md": "tool",
}  # fmt: skip
"""The picture that links to a page show (`site/assets/previews`), by template."""
KINDS = {"encoder": "encoder", "decoder": "decoder only", "encoder_decoder": "encoder and decoder"}

T = TypeVar("T")
View = dict[str, Any]
"""The values of one item for a template."""


class Site:
    """One knowledge base with the tools for writing pages about it."""

    def __init__(self, kb: KnowledgeBase, repository: str = ""):
        self.kb, self.repository = kb, _address(repository)
        self.folder = data_root() / "site"  # templates and scripts are code, so those beside other data are not used
        self.code = _beside(kb.root / "reference_impls", FOLDER)
        self._costs: dict[tuple[str, str], View] = {}
        self._made: dict[tuple[Callable[..., Any], str], Any] = {}
        self.tex, self.env = shared_tex(), _environment(self.folder)

    def page(self, template: str, title: str, description: str, meta: View | None = None, **values: Any) -> str:
        """Return a markdown page with its front matter.

        meta: further fields for the theme: `source` (the file behind an edit link), `door` (the menu entry that
        contains the page), `hide`, `calculator`, `linked` (structured data).
        """
        card = PREVIEWS.get(template, "page")
        head = front_matter(title=title, description=description, card=card, **(meta or {}))
        return head + self.env.get_template(template).render(heading=Markup(inline(title)), **values)

    def once(self, make: Callable[[Site, Method], T], method: Method) -> T:
        """Return a part of a method's page that other files share, made on first use."""
        if (make, method.id) not in self._made:
            self._made[make, method.id] = make(self, method)
        found: T = self._made[make, method.id]
        return found

    # Contents

    @cached_property
    def settings(self) -> Settings:
        """The content of `site/settings.yaml`: the examples for the pages. Raises DataError."""
        path = self._own_file("settings.yaml")
        return load_settings(path, self.kb.shown(path))

    @cached_property
    def search_words(self) -> SearchWords:
        """The content of `site/search.yaml`. Raises DataError."""
        path = self._own_file("search.yaml")
        return load_search_words(path, self.kb.shown(path))

    def _own_file(self, name: str) -> Path:
        """Return a data file of the site: the one beside the knowledge base, or else ours."""
        here = self.kb.root / "site" / name
        return here if here.is_file() else self.folder / name

    @cached_property
    def examples(self) -> list[str]:
        """The example models, which represent all others in pages without script."""
        named = [m for m in self.settings.examples if m in self.kb.models]
        return named or list(self.kb.models)[:2]

    @cached_property
    def example_method(self) -> str:
        """The method of the example query."""
        wanted = self.settings.query.method
        return wanted if wanted in self.kb.methods else next(iter(self.kb))

    @cached_property
    def survey(self) -> str:
        """The source of the taxonomy's tree: the one in the settings, else the source of most categories."""
        named = self.settings.survey.source
        sources = [n.source.partition("#")[0] for n in self.kb.taxonomy.categories.values()]
        return named if named in self.kb.references else max(sources, key=sources.count)

    @cached_property
    def use(self) -> dict[str, int]:
        """The rank of each method by use: the number of libraries that have it, then of methods that build on it."""

        def key(method: Method) -> tuple[int, int, int, str]:
            libraries = sum(name != "official" for name in method.entry.implementations)
            return -libraries, -len(self.kb.graph.children(method.id)), method.year, method.id

        return {m.id: rank for rank, m in enumerate(sorted(self.kb.values(), key=key))}

    def libraries(self, method: Method) -> str:
        """Return the libraries that have a method, by the names of their packages."""
        keys = [key for key in method.entry.implementations if key != "official"]
        return ", ".join(self.kb.libraries[key].package if key in self.kb.libraries else key for key in keys)

    def library(self, key: str) -> str:
        """Return the name of a library or a trainer."""
        usual = self.kb.trainers[key].name if key in self.kb.trainers else key.replace("_", " ")
        return self.settings.libraries.get(key, usual)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The numbers of methods, models, families and recomputed claims."""
        return {
            "methods": len(self.kb),
            "models": len(self.kb.models),
            "families": len(self.kb.families),
            "claims": sum(c.verdict not in (None, "unverifiable") for m in self.kb.values() for c in m.entry.claims),
        }

    # Categories

    @cached_property
    def _hues(self) -> dict[str, int]:
        return {root.id: i % HUES for i, root in enumerate(self.kb.taxonomy.tree)}

    def hue(self, category: str) -> int:
        """Return the colour of a category, which is its root's colour."""
        return self._hues.get(category.partition(".")[0], 0)

    def trail(self, category: str) -> list[tuple[str, str]]:
        """Return names and pages from the list of methods down to a category."""
        nodes, parts = self.kb.taxonomy.categories, category.split(".")
        keys = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return [
            ("Methods", "methods/index.html"),
            *((nodes[k].name, f"categories/{k}.html") for k in keys if k in nodes),
        ]

    def groups(self, prefix: str = "", among: Set[str] | None = None) -> list[View]:
        """Return the methods by category in the order of the tree, without empty categories.

        prefix: only below this category. among: only these methods.
        """
        found = []
        for key in self.kb.taxonomy.categories:
            if prefix and key != prefix and not key.startswith(f"{prefix}."):
                continue
            rows = [self._row(m) for m in self.in_category(key) if among is None or m.id in among]
            if rows:
                name = " › ".join(n for n, _ in self.trail(key)[1:])
                found.append({"id": key, "name": name, "hue": self.hue(key), "methods": rows})
        return found

    def in_category(self, key: str) -> list[Method]:
        """Return the methods of exactly this category, oldest first."""
        return self._by_category.get(key, [])

    @cached_property
    def _by_category(self) -> dict[str, list[Method]]:
        found: dict[str, list[Method]] = {}
        for method in sorted(self.kb.values(), key=lambda m: (m.year, m.id)):
            found.setdefault(method.category, []).append(method)
        return found

    @cached_property
    def lists(self) -> list[View]:
        """Every saved query with its methods (the keys of `ids`, in order)."""
        found = []
        for key, stored in self.kb.taxonomy.lists.items():
            ids = dict.fromkeys(self.kb.stored_list(key).ids)
            model = self.kb.models.get(stored.model) if stored.model else None
            found.append({
                "id": key, "name": stored.name, "meaning": stored.meaning, "where": stored.where, "model": stored.model,
                "model_name": model.name if model else stored.model, "ids": ids, "n": len(ids),
            })  # fmt: skip
        return found

    def _row(self, method: Method) -> View:
        entry = method.entry
        return {
            "id": method.id, "name": method.name, "year": method.year, "summary": entry.summary,
            "merge": "yes" if method.merge == "exact" else "no",
            "example": self.cost(method, self.examples[0]).get("trained", "–"),
        }  # fmt: skip

    # Costs and citations

    def cost(self, method: Method, model: str) -> View:
        """Return the ledgers at the default setting, or the reason for their absence as `problem`."""
        if (method.id, model) not in self._costs:
            self._costs[method.id, model] = self._cost(method, model)
        return self._costs[method.id, model]

    def _cost(self, method: Method, model: str) -> View:
        try:
            found = self.plan(method, model).cost({})
        except UsageError as error:
            return {"problem": str(error), "exact": None, "bytes": None}
        bits = f" + {count(found.stored_bits)} bits" if found.stored_bits else ""
        return {
            "problem": "", "exact": found.trained, "bytes": found.stored_bytes,
            "trained": count(found.trained), "percent": percent(found.percent),
            "stored": count(found.stored) + bits, "served": count(found.served),
        }  # fmt: skip

    def plan(self, method: Method, model: str) -> Plan:
        """Return a method on a model. Only those of the examples are cached: all of them would fill the memory."""
        if model in self.examples:
            return method.plan(model)
        return Plan(method.parts, self.kb.models[model].inventory())

    def cite(self, text: str | None) -> View | None:
        """Return a citation `key#locator` for the `cite` macro."""
        if not text:
            return None
        key, _, locator = text.partition("#")
        if key == "editors":
            return {"editors": True}
        found = self.kb.references.get(key)
        label = short(found) if found else key
        return {
            "editors": False, "key": key, "label": label, "title": found.title if found else "",
            "locator": locator.replace("-", " "),
        }  # fmt: skip

    def reference(self, key: str) -> View:
        """Return a source with all its printed fields."""
        found = self.kb.references[key]
        names = [*found.authors[:MOST_AUTHORS], *(["and others"] if len(found.authors) > MOST_AUTHORS else [])]
        parts = (", ".join(names), found.venue, found.year)
        return {
            "key": key, "title": found.title, "byline": ". ".join(p for p in parts if p), "links": list(_links(found)),
            "bibtex": found.bibtex.strip(), "unread": found.read == "none",
        }  # fmt: skip


# A preview creates many sites in succession, which share it.


@cache
def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder / "templates", folder / "pages"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def short(reference: Reference) -> str:
    """Return a short citation such as `Hu et al. 2022`.

    An organisation (in its own braces) appears by its full name, a source without authors by its title.
    """
    raw = re.split(r"\s+and\s+", reference.fields.get("author", ""))
    names = [a if r.startswith("{") else a.split()[-1] for a, r in zip(reference.authors, raw, strict=False)]
    if not names:
        return reference.title
    who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
    return f"{who} {reference.year}".strip()


def _links(reference: Reference) -> list[View]:
    arxiv = f"https://arxiv.org/abs/{reference.arxiv}" if reference.arxiv else ""
    pairs = [(f"arXiv {reference.arxiv}", arxiv)]
    if reference.url != arxiv:
        pairs.append(("DOI" if "doi.org/" in reference.url else "address", reference.url))
    return [{"name": name, "url": url} for name, url in pairs if safe_url(url)]


def _address(repository: str) -> str:
    """Return the repository's address without a trailing slash; "" if there is none."""
    if repository and not safe_url(repository):
        expected = "an address such as https://example.org/owner/name"
        raise UsageError(f"repository: found {repository!r}; expected {expected}")
    return repository.rstrip("/")


def _beside(here: Path, packaged: Path) -> Path:
    """Return a folder beside the data, or else the packaged one."""
    return here if here.is_dir() else packaged
