"""What browser tests share: the built site, a server for it, a Chromium, and a page whose console must stay empty.

The fixtures reach the tests through `conftest.py`, so that all modules of a run share one built site and one browser.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from .site_kit import common

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"width": 360, "height": 740}
FOUND = ".pf-found"
"""A result of the search."""


def built(out: Path, root: Path, **environment: str) -> Path:
    """The site as `peftonomy site build` makes it; a warning fails.

    environment: the variables that the build reads. Those of the session do not reach it.
    """
    code = "import sys, peftonomy.site as s; s.build(s.load(sys.argv[1]), sys.argv[2])"
    code = code.replace("s.load", "__import__('peftonomy').load")
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={k: v for k, v in os.environ.items() if not k.startswith("PEFTONOMY_")} | environment,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word; what pages share is fetched once."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def end_headers(self) -> None:
        if not self.path.endswith(".html"):
            self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


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
    page.get_by_role("combobox", name="Search").fill(words)
    expect(page.locator(FOUND).first).to_be_visible(timeout=15_000)


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, which all workers of a run share: the first that needs it builds it."""
    folder = common(tmp_path_factory)
    whole = folder / "site"
    with FileLock(folder / "site.lock"):
        if not whole.is_dir():
            built(folder / "site.part", root).rename(whole)
    return whole


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    yield from served(site)


# Our own three fixtures rather than a plugin's: they name the system's Chromium and need no option.


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)      # on a busy machine a page may count for seconds
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """A page whose console must stay empty and which may ask nobody but its own server."""
    complaints = watch(page)
    yield page
    assert complaints == [], complaints
