"""What machines read of the site, and the permanent addresses of single facts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from peftonomy import KnowledgeBase
from peftonomy.site import _about
from peftonomy.site._method import method_page
from peftonomy.site._site import PREVIEWS, Site

from .conftest import ROOT

pytestmark = pytest.mark.slow

ADDRESS = "https://example.org/kb/"
NOT_ID = re.compile(r"\s")


@pytest.fixture(scope="module")
def own(kb: KnowledgeBase) -> Site:
    return Site(kb)


def test_every_claim_relation_and_deviation_has_an_address(kb: KnowledgeBase, own: Site) -> None:
    """Each has one of its own, which the page links, and which says what it is."""
    seen = 0
    for method in kb.values():
        page = method_page(own, method)
        ids = [i for i in re.findall(r'id="([^"]+)"', page) if i.startswith(("claim-", "relation-", "deviation-"))]
        assert len(ids) == len(set(ids)), method.id
        assert not [i for i in ids if NOT_ID.search(i)], method.id
        assert ids == re.findall(r'class="pf-anchor" href="#([^"]+)"', page), method.id
        claims = [i for i in ids if i.startswith("claim-")]
        assert claims == [f"claim-{claim.id}" for claim in method.entry.claims]
        deviations = [d for found in method.entry.implementations.values() for d in found.deviations]
        assert sum(i.startswith("deviation-") for i in ids) == len(deviations)
        assert sum(i.startswith("relation-") for i in ids) == len(kb.graph.related(method.id))
        seen += len(ids)
    assert seen > len(kb)


def linked(found: Any) -> list[str]:
    """The addresses in structured data."""
    if isinstance(found, dict):
        return [a for value in found.values() for a in linked(value)]
    if isinstance(found, list):
        return [a for value in found for a in linked(value)]
    return [found] if isinstance(found, str) and found.startswith(("http", "./")) else []


def test_structured_data_has_whole_addresses_or_none(kb: KnowledgeBase, own: Site) -> None:
    records = [_about.dataset(own), *(_about.term(own, method) for method in kb.values())]
    for record in records:
        published, plain = _about.absolute(record, ADDRESS), _about.absolute(record, None)
        assert any(address.startswith(ADDRESS) for address in linked(published))
        assert not [address for address in linked(published) + linked(plain) if address.startswith("./")]
        assert [part["@type"] for part in published] == [part["@type"] for part in plain]
    assert [part["@type"] for part in records[0]] == ["Dataset", "SoftwareSourceCode"]
    assert {part["@type"] for record in records[1:] for part in record} == {"DefinedTerm"}


def test_the_citation_is_that_of_the_checkout() -> None:
    cited = _about.citation()["bibtex"]
    version = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"version = {{{version[1]}}}" in cited
    assert cited.count("{") == cited.count("}")


def test_every_kind_of_page_has_a_picture() -> None:
    pictures = {path.stem for path in (ROOT / "site" / "assets" / "previews").glob("*.jpg")}
    assert pictures == {*PREVIEWS.values(), "page"}


def test_llms_txt_links_files_of_the_site(site: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert len(links) > 100
    assert [link for link in links if not (site / link).is_file()] == []


def test_all_methods_in_one_file_are_those_of_their_files(site: Path, kb: KnowledgeBase) -> None:
    whole = json.loads((site / "api/v1/all.json").read_bytes())["methods"]
    assert [record["id"] for record in whole] == list(kb)
    one = json.loads((site / f"api/v1/methods/{whole[0]['id']}.json").read_bytes())["method"]
    assert one == whole[0]
