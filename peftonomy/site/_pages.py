"""Every file of the site's source: pages, API, calculator data and assets, from the knowledge base alone.

No mkdocs, no clock, no network: the same knowledge base gives the same bytes. Markdown pages contain plain headings
(for the table of contents and search) and blocks of HTML between them. Templates write these blocks and escape all text
from entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..knowledge.base import KnowledgeBase
from . import _about, _api, _cards, _choices, _engine, _measured, _operations, _radial, _scripts, _search
from ._architectures import architectures_page
from ._combine import combine_page
from ._lists import category_page, model_page, picture, standing_pages
from ._memory import memory_page
from ._merging import merging_page
from ._method import method_page
from ._overview import overview_pages
from ._reference import reference_pages
from ._serving import serving_page
from ._site import HUES, Site
from ._support import support_page
from ._tools import tool_pages

__all__ = ["all_pages", "each_page", "standing"]

STYLE = "peftonomy.css"
ONLY_HERE = "katex.min.js"
"""A script that runs while the site is built and is not part of it."""


def all_pages(kb: KnowledgeBase, repository: str = "") -> dict[str, str | bytes]:
    """Return the content of every file by path, sorted."""
    return dict(sorted(each_page(Site(kb, repository), kb)))


def each_page(site: Site, methods: Iterable[str]) -> Iterator[tuple[str, str | bytes]]:
    """Yield the path and content of every file, starting with the pages of the methods in the given order."""
    kb = site.kb
    yield from ((f"methods/{key}.md", method_page(site, kb[key])) for key in methods)
    pages = standing(site)
    yield from pages.items()
    cards = _search.cards(site, pages)
    yield "assets/search-data.js", _search.script(site, cards)
    yield "llms.txt", _about.llms(site, cards)
    yield from ((f"categories/{key}.md", category_page(site, node)) for key, node in kb.taxonomy.categories.items())
    yield "assets/data.js", _engine.script(site)
    yield "assets/programs.js", _operations.script(site)
    yield "assets/choices.js", _choices.script(site)
    yield from _cards.cards(site)
    yield "assets/taxonomy.svg", _radial.standalone(picture(site, labels=True), _colours(site))
    yield from _api.files(kb, site.examples, site.survey).items()
    yield from _measured.tables(site)
    yield from ((f"models/{key}.md", model_page(site, key)) for key in kb.models)
    yield from _assets(site)


def standing(site: Site) -> dict[str, str]:
    """Return the pages that are not about one method, category or model."""
    measured = {"measured.md": _measured.measured_page(site)} if site.kb.studies or site.kb.results else {}
    if site.kb.combinations is not None:
        measured["combine.md"] = combine_page(site, site.kb.combinations)
    if site.kb.engines:
        measured["serving.md"] = serving_page(site)
    return {
        **dict(standing_pages(site)), **dict(overview_pages(site)), **dict(tool_pages(site)),
        **dict(reference_pages(site)), **measured, "memory.md": memory_page(site), "support.md": support_page(site),
        "architectures.md": architectures_page(site), "merging.md": merging_page(site),
    }  # fmt: skip


def _assets(site: Site) -> Iterator[tuple[str, str | bytes]]:
    yield from ((f"assets/{name}.js", text) for name, text in _scripts.bundles(site.folder).items())
    for source, target in (("assets", "assets"), ("vendor", "assets/vendor")):
        for path in sorted((site.folder / source).rglob("*")):
            if path.is_file() and path.name != ONLY_HERE:
                yield f"{target}/{path.relative_to(site.folder / source).as_posix()}", path.read_bytes()


def _colours(site: Site) -> dict[int, tuple[str, str]]:
    """Return the colours of the categories in the light and the dark scheme, from the style sheet."""
    css = Path(site.folder, "assets", STYLE).read_text(encoding="utf-8")
    found = {n: re.findall(rf"--pf-hue-{n}: (#[0-9a-f]{{6}})", css) for n in range(HUES)}
    return {n: (pair[0], pair[1]) for n, pair in found.items()}
