"""What tests share: the knowledge base of this checkout, a browser, and a way to run some methods only."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import peftonomy

from .browser_kit import address, browser, page, site, watched  # noqa: F401 (fixtures)
from .cli_kit import run, tree  # noqa: F401 (fixtures)
from .knowledge import KB
from .site_kit import made  # noqa: F401 (fixture)
from .tools_kit import clipboard  # noqa: F401 (fixture)

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "only tests of this method; repeatable"
    parser.addoption("--method", action="append", default=[], metavar="ID", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--method`, keep the tests that have one of these methods among their parameters.

    The example of `peftonomy.site` makes every page, which takes as long as a slow test: it is marked as one, and comes
    first, so that no worker waits for it at the end.
    """
    for item in [item for item in items if item.nodeid.endswith("::peftonomy.site")]:
        item.add_marker(pytest.mark.slow)
        items.remove(item)
        items.insert(0, item)
    wanted = set(config.getoption("--method"))
    if wanted:
        dropped = [item for item in items if not wanted & set(methods_of(item))]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of every later collection of garbage: it stays to the end."""
    gc.collect()
    gc.freeze()


def methods_of(item: pytest.Item) -> Iterator[str]:
    call = getattr(item, "callspec", None)
    for value in call.params.values() if call else ():
        yield value if isinstance(value, str) else getattr(value, "method", getattr(value, "id", ""))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def kb() -> peftonomy.KnowledgeBase:
    """The knowledge base of the checkout."""
    return KB


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; the test is skipped without one (`make test` sees to it that there is)."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *BROWSERS))), None)
    if found is None:
        pytest.skip("no Chromium; install it or name one with CHROMIUM=/path")
    return found
