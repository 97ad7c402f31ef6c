"""The search: one index of methods, models, categories, surveys, pages, references and deviations, as short cards.

The result is one classic script that a page loads when its search is first opened, so it also works from a file. The
module in the page (`site/assets/search.js`) builds the inverted index from it with MiniSearch, and ranks. Ranking uses
the fields of a card, its kind and its weight; no card has a rule of its own.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..knowledge.base import Method
from ..schema.search import SearchWords
from ..schema.taxonomy import SurveyNode
from . import _anchors, _finder, _names
from ._site import KINDS as ARCHITECTURES
from ._site import Site
from ._text import count

__all__ = ["Card", "cards", "script"]

KINDS = {
    "method": ("Method", 1.0),
    "page": ("Page", 1.0),
    "category": ("Category", 0.7),
    "model": ("Model", 0.7),
    "list": ("List", 0.7),
    "section": ("Section", 0.4),
    "survey": ("Survey", 0.4),
    "reference": ("Reference", 0.35),
    "deviation": ("Deviation", 0.3),
}
"""Each kind of card with its name and its weight. A visitor looks for methods most often."""
SHOWN = 160
"""The most characters of a card's summary; the text of a card is searched whole."""
OWN_PAGES = ("methods/", "categories/", "models/", "lists/")
"""Folders whose pages have cards of their own kind, except their overview pages."""
WORD = re.compile(r"[^\W_]+(?:\+\+?)?")
TAG = re.compile(r"<(script|style|svg|pre|table|form)\b.*?</\1>|<[^>]+>", re.DOTALL)
FRONT = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)
HEADING = re.compile(r"^(#{1,3}) (.*?) *\{ *#([\w.-]+)[^}]*\} *$", re.MULTILINE)


class Card(NamedTuple):
    """One result of the search."""

    kind: str
    href: str
    title: str
    where: str
    """The place in the site: a category, an architecture, a page."""
    names: str = ""
    """Other names of the same thing."""
    summary: str = ""
    text: str = ""
    """Further text that is searched and not shown."""
    weight: float = 1.0


def cards(site: Site, pages: Mapping[str, str]) -> list[Card]:
    """Return every card. `pages`: the site's Markdown pages by path, for those without a kind of their own."""
    return [
        *(_method(site, m) for m in site.kb.values()),
        *_pages(pages),
        *_categories(site),
        *_models(site),
        *(Card("list", f"lists/{r['id']}.html", r["name"], f"{r['n']} methods", "", r["meaning"]) for r in site.lists),
        *_surveys(site),
        *_references(site),
        *_deviations(site),
    ]


def script(site: Site, known_cards: Iterable[Card]) -> str:
    """Return the text of `assets/search-data.js`."""
    known: SearchWords = site.search_words
    stop = {w.lower() for w in known.stop}
    rows = [_row(card, stop) for card in known_cards]
    record = {"kinds": KINDS, "stop": known.stop, "synonyms": known.synonyms, "cards": rows}
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f'"use strict";\npfSearch.load({text});\n'


def _row(card: Card, stop: set[str]) -> list[str | float]:
    """Return a card as the script holds it. Its text is reduced to the words that its other fields lack."""
    shown = _shortened(card.summary)
    seen = {w.lower() for w in WORD.findall(f"{card.title} {card.where} {card.names} {shown}")}
    words = dict.fromkeys(w.lower() for w in WORD.findall(f"{card.summary} {card.text}"))
    rest = " ".join(w for w in words if w not in seen and w not in stop)
    return [card.kind, card.href, card.title, card.where, card.names, shown, rest, round(card.weight, 2)]


def _shortened(text: str) -> str:
    """Return the beginning of a text, up to a word's end."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def _method(site: Site, method: Method) -> Card:
    entry = method.entry
    facets = [w for values in entry.facets.values() for w in (values if isinstance(values, list) else [values])]
    libraries = [site.library(key) for key, i in entry.implementations.items() if i.symbol]
    text = [entry.description, entry.where, *(f.replace("_", " ") for f in facets), *libraries]
    related = len(site.kb.graph.related(method.id))
    return Card(
        "method", f"methods/{method.id}.html", entry.name, f"{_path(site, entry.category)} · {entry.year}",
        " | ".join(_other_names(site, method)), entry.summary, " ".join(text), 1 + math.log10(1 + related) / 2,
    )  # fmt: skip


def _other_names(site: Site, method: Method) -> Iterator[str]:
    """Yield the names of a method besides its title, without those that differ from an earlier one in spelling only."""
    seen = {_names.key(method.name)}
    for name in _finder.names(site, method):
        if _names.key(name) not in seen:
            seen.add(_names.key(name))
            yield name


def _path(site: Site, category: str) -> str:
    return " › ".join(name for name, _ in site.trail(category)[1:])


def _pages(pages: Mapping[str, str]) -> Iterator[Card]:
    """Yield a card for each page, and one for each of its sections."""
    for path, source in sorted(pages.items()):
        match = FRONT.fullmatch(source)
        if match is None or (path.startswith(OWN_PAGES) and not path.endswith("index.md")):
            continue
        fields = {key: html.unescape(json.loads(v)) for key, _, v in map(_field, match[1].splitlines()) if v[:1] == '"'}
        title, href = fields["title"], path.removesuffix(".md") + ".html"
        parts = HEADING.split(match[2])
        head, *sections = zip(parts[2::4], parts[3::4], parts[4::4], strict=True)
        yield Card("page", href, title, "", "", fields.get("description", ""), _plain(head[2]))
        for name, anchor, body in sections:
            yield Card("section", f"{href}#{anchor}", _plain(name), title, "", _plain(body))


def _field(line: str) -> tuple[str, str, str]:
    return line.partition(": ")


def _plain(source: str) -> str:
    """Return the prose of HTML within Markdown, without tables, code, pictures and forms."""
    return " ".join(html.unescape(TAG.sub(" ", source)).split())


def _categories(site: Site) -> Iterator[Card]:
    for key, node in site.kb.taxonomy.categories.items():
        above = _path(site, key.rpartition(".")[0]) if "." in key else "Taxonomy"
        spoken = key.rpartition(".")[2].replace("_", " ")     # "soft prompt" of what is named "Soft prompt-based"
        yield Card("category", f"categories/{key}.html", node.name, above, spoken, node.definition)


def _models(site: Site) -> Iterator[Card]:
    for key, model in site.kb.models.items():
        family = model.family
        text = f"{family.model_type} {ARCHITECTURES[family.kind]} model"
        summary = f"{count(model.parameters)} parameters, {ARCHITECTURES[family.kind]}"
        yield Card("model", f"models/{key}.html", model.name, family.name, key.replace("_", " "), summary, text)


def _surveys(site: Site) -> Iterator[Card]:
    """Yield a card for each class of the other surveys."""
    for key, survey in site.kb.taxonomy.surveys.items():
        for node in _classes(survey.tree):
            names = ", ".join(site.kb[m].name for m in node.methods if m in site.kb)
            where = f"In the survey of {survey.name}"
            yield Card("survey", f"crosswalk.html#{key}", node.name, where, "", names)


def _classes(nodes: Iterable[SurveyNode]) -> Iterator[SurveyNode]:
    for node in nodes:
        yield node
        yield from _classes(node.children)


def _references(site: Site) -> Iterator[Card]:
    for key, found in site.kb.references.items():
        names = [a.split()[-1] for a in found.authors]
        who = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        where = " · ".join(part for part in (who, found.venue, str(found.year or "")) if part)
        text = " ".join([*names, f"arXiv {found.arxiv}" if found.arxiv else ""])
        yield Card("reference", f"references.html#{key}", found.title, where, found.arxiv or "", "", text)


def _deviations(site: Site) -> Iterator[Card]:
    for row, anchor in zip(site.kb.deviations, _anchors.deviations(site.kb.deviations), strict=True):
        method, library = site.kb[row["method"]], site.library(row["library"])
        effect = "" if row["effect"] == "none" else f" · other {row['effect']}"
        title = f"{method.name} in {library}"
        where = f"{row['about']}{effect}"
        yield Card("deviation", f"methods/{method.id}.html#{anchor}", title, where, "", row["note"], "deviation")
