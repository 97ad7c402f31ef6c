"""The bytes of a first view: what a browser fetches before anything is asked, compressed, without fonts."""

from __future__ import annotations

import gzip
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser

from peftonomy import KnowledgeBase

pytestmark = pytest.mark.browser

MOST = 250_000
METHODS = 400
"""The number of methods at which the limit must still hold."""
DESKTOP = {"width": 1280, "height": 900}
LATER = {"engine.js", "data.js", "calculator.js", "programs.js", "minisearch.js", "search.js", "search-data.js"}


def compressed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 6))


def fetched(browser: Browser, address: str, site: Path, page: str) -> dict[str, int]:
    """The files of a first view with their compressed sizes, without fonts."""
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    tab, asked = context.new_page(), set[str]()
    tab.on("request", lambda request: asked.add(unquote(urlsplit(request.url).path).lstrip("/")))
    tab.goto(address + page, wait_until="networkidle")
    context.close()
    return {path: compressed(site / path) for path in asked if not path.endswith(".woff2")}


def test_a_first_view_is_light(browser: Browser, address: str, site: Path, kb: KnowledgeBase) -> None:
    """Home, the longest page of a method, and the one with the most relations.

    No page grows faster than the number of methods, so its own bytes are scaled by that.
    """
    longest = max(kb, key=lambda key: (site / "methods" / f"{key}.html").stat().st_size)
    related = max(kb, key=lambda key: len(kb.graph.related(key)))
    for page in dict.fromkeys(("index.html", f"methods/{longest}.html", f"methods/{related}.html")):
        sizes = fetched(browser, address, site, page)
        own = sizes.pop(page)
        assert not LATER & {Path(path).name for path in sizes}, page
        assert own + sum(sizes.values()) < MOST, (page, own, sizes)
        assert own * max(1, METHODS / len(kb)) + sum(sizes.values()) < MOST, (page, own, sizes)
