"""The pages of the knowledge base, which all tests of a run share."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from filelock import FileLock

from peftonomy import KnowledgeBase

Pages = dict[str, str | bytes]
REPOSITORY = "https://example.org/peftonomy"


def common(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the workers of a run have in common."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def made(kb: KnowledgeBase, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Every page as `peftonomy site pages` makes it. The first worker that needs them makes them."""
    from peftonomy.site import pages

    file = common(tmp_path_factory) / "pages.pickle"
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            found: Pages = pickle.loads(file.read_bytes())
        else:
            found = pages(kb, repository=REPOSITORY)
            file.write_bytes(pickle.dumps(found))
    return found
