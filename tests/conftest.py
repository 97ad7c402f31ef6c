"""What tests share: the knowledge base of this checkout, a browser, and a way to run some methods only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import peftonomy

from .browser_kit import address, browser, page, searchable, site, watched  # noqa: F401 (fixtures)

collect_ignore = ["oracles/adapters_side.py"]    # runs in an environment of its own, with another transformers
ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "only tests of this method; repeatable"
    parser.addoption("--method", action="append", default=[], metavar="ID", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--method`, keep the tests that have one of these methods among their parameters."""
    wanted = set(config.getoption("--method"))
    if wanted:
        dropped = [item for item in items if not wanted & set(methods_of(item))]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


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
    """The knowledge base of the checkout. Its records are frozen, so all tests share it."""
    return peftonomy.load(ROOT)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; the test is skipped without one (`make test` sees to it that there is)."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *BROWSERS))), None)
    if found is None:
        pytest.skip("no Chromium; install it or name one with CHROMIUM=/path")
    return found
