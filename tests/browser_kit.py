"""What browser tests share: the built site, a server for it, a Chromium, and a page whose console must stay empty.

The fixtures reach the tests through `conftest.py`, so that all modules of a run share one built site and one browser.
"""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

PHONE = {"width": 360, "height": 740}


def built(out: Path, root: Path) -> Path:
    """The site as `peftonomy site build` makes it; a warning fails."""
    code = "import sys, peftonomy.site as s; s.build(s.load(sys.argv[1]), sys.argv[2])"
    code = code.replace("s.load", "__import__('peftonomy').load")
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def watch(page: Page) -> list[str]:
    """What a page complains of: messages on its console, errors, and requests to anybody but its own server."""
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    own = re.compile(r"^(http://127\.0\.0\.1:|file:|data:|blob:)")
    page.on("request", lambda r: None if own.match(r.url) else complaints.append(f"foreign: {r.url}"))
    return complaints


def search(page: Page, words: str) -> None:
    """Open the search from the home page's door and type."""
    from playwright.sync_api import expect

    page.get_by_role("button", name="Search: low rank").click()
    page.keyboard.type(words, delay=15)
    expect(page.locator(".md-search-result__item").first).to_be_visible(timeout=15_000)


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("site"), root)


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    yield from served(site)


# Our own three fixtures rather than a plugin's: they name the system's Chromium and need no option.


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


FIELDS = '{"title": {"boost": 1.0}, "text": {"boost": 1.0}, "tags": {"boost": 1.0}}'
EMPTY = f'{{"config": {{"lang": ["en"], "separator": " ", "pipeline": [], "fields": {FIELDS}}}, "docs": []}}'


def without_index(context: BrowserContext) -> BrowserContext:
    """A context whose pages get an index for searching without pages in it: building one is most of loading a page."""
    for name, body in (("json", EMPTY), ("js", f"var __index = {EMPTY};")):
        context.route(f"**/search_index.{name}", functools.partial(_answered, body=body))
    return context


def _answered(route: Route, body: str) -> None:
    route.fulfill(body=body, content_type="application/json" if body is EMPTY else "application/javascript")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = without_index(browser.new_context())
    yield context.new_page()
    context.close()


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """A page whose console must stay empty and which may ask nobody but its own server."""
    complaints = watch(page)
    yield page
    assert complaints == []


@pytest.fixture
def searching(watched: Page) -> Page:
    """As `watched`, with the index that the site has."""
    watched.context.unroute_all()
    return watched
