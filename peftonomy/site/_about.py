"""What machines read about the site: structured data for search engines, `llms.txt`, and how to cite it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urljoin

from ..files.documents import load_yaml
from ..knowledge.base import Method, data_root
from . import _api
from ._search import Card
from ._site import Site, View

__all__ = ["absolute", "citation", "dataset", "llms", "term"]

CONTEXT = "https://schema.org"
LICENCES = {
    "data": "https://creativecommons.org/licenses/by/4.0/",
    "code": "https://opensource.org/license/mit",
}
HERE = "./"
"""The start of an address within the site. `absolute` completes it."""


def citation() -> View:
    """Return the fields of `CITATION.cff`, with `bibtex`."""
    fields: View = load_yaml(data_root() / "CITATION.cff").data
    names = " and ".join(f"{{{author['name']}}}" for author in fields["authors"])
    lines = [
        "@software{peftonomy,",
        f"  title = {{{{{fields['title']}}}}},",
        f"  author = {{{names}}},",
        f"  version = {{{fields['version']}}},",
        f"  year = {{{str(fields['date-released'])[:4]}}},",
        "}",
    ]
    return fields | {"bibtex": "\n".join(lines)}


def dataset(site: Site) -> list[View]:
    """Return the structured data of the first page: the data, and the code."""
    fields = citation()
    common = {
        "@context": CONTEXT, "name": "peftonomy", "description": " ".join(fields["abstract"].split()),
        "version": fields["version"], "keywords": fields["keywords"], "url": HERE,
        "author": [{"@type": "Organization", "name": author["name"]} for author in fields["authors"]],
    }  # fmt: skip
    files = [("all.json", "application/json"), ("index.json", "application/json")]
    data = common | {
        "@type": "Dataset", "license": LICENCES["data"], "isAccessibleForFree": True,
        "distribution": [
            {"@type": "DataDownload", "encodingFormat": kind, "contentUrl": f"{HERE}{_api.ROOT}{name}"}
            for name, kind in files
        ],
    }  # fmt: skip
    code = common | {"@type": "SoftwareSourceCode", "license": LICENCES["code"], "programmingLanguage": "Python"}
    return [data, code | ({"codeRepository": site.repository} if site.repository else {})]


def term(site: Site, method: Method) -> list[View]:
    """Return the structured data of a method's page: the method, and its paper."""
    entry = method.entry
    found: View = {
        "@context": CONTEXT, "@type": "DefinedTerm", "name": entry.name, "description": entry.summary,
        "alternateName": [entry.full_name, *entry.aliases], "url": f"{HERE}methods/{entry.id}.html",
        "inDefinedTermSet": {"@type": "Dataset", "name": "peftonomy", "url": HERE, "license": LICENCES["data"]},
    }  # fmt: skip
    reference = site.kb.references.get(entry.source.partition("#")[0])
    if reference is not None:
        paper: View = {"@type": "ScholarlyArticle", "name": reference.title, "datePublished": str(reference.year or "")}
        paper["author"] = [{"@type": "Person", "name": name} for name in reference.authors]
        if reference.arxiv:
            paper["sameAs"] = f"https://arxiv.org/abs/{reference.arxiv}"
        found["subjectOf"] = paper
    return [found]


def absolute(record: Any, address: str | None) -> Any:
    """Return structured data with complete addresses; without the site's own address, its pages have none."""
    if isinstance(record, list):
        return [absolute(item, address) for item in record]
    if not isinstance(record, dict):
        return urljoin(address, record) if address and isinstance(record, str) and record.startswith(HERE) else record
    kept = {k: v for k, v in record.items() if address or not (isinstance(v, str) and v.startswith(HERE))}
    return {key: absolute(value, address) for key, value in kept.items()}


def llms(site: Site, cards: Iterable[Card]) -> str:
    """Return `llms.txt`: what the site is and where its data are. `cards`: those of the search, for the pages."""
    fields = citation()
    lines = [
        "# peftonomy", "", f"> {' '.join(fields['abstract'].split())}", "",
        "Take numbers from the JSON files or from the command line (`pip install peftonomy`), not from prose.",
        "`peftonomy cost METHOD --model MODEL` counts parameters, `peftonomy memory` predicts a training step.", "",
        "## Data", "",
        *(f"- [{path}]({_api.ROOT}{path}): {content}" for path, content in _api.FILES.items() if "<" not in path), "",
        "## Pages", "",
        *(f"- [{c.title}]({c.href}): {c.summary}" for c in cards if c.kind == "page"), "",
        "## Methods", "",
        *(f"- [{m.name}]({_api.ROOT}methods/{m.id}.json): {m.entry.summary}" for m in site.kb.values()), "",
    ]  # fmt: skip
    return "\n".join(lines)
