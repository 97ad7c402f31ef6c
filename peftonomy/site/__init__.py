"""The site: pages as text from the knowledge base, and the thin layer that has mkdocs build them.

    >>> import peftonomy
    >>> from peftonomy.site import pages
    >>> sorted(p for p in pages(peftonomy.load()) if p.count("/") == 0)[:3]
    ['about.md', 'api.md', 'calculator.md']

`pages` is pure and needs no mkdocs: the same files feed mkdocs (through `site/hook.py`), another builder, or a test.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import http.server
import logging
import os
import socketserver
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .._errors import UsageError
from .._kb import KnowledgeBase, data_root

__all__ = ["build", "pages", "preview", "serve", "write"]

NEEDS = "the site needs its extra: pip install 'peftonomy[site]'"


def pages(kb: KnowledgeBase, *, repository: str = "") -> dict[str, str | bytes]:
    """Every file of the site's source by its path: markdown, JSON, SVG, scripts, styles and fonts.

    repository: the address before `/edit/main/<file>` in edit links; none without it. Raises DataError for a formula
    that cannot be set, UsageError without the `site` extra or if `repository` is no address.
    """
    try:
        from ._pages import all_pages
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    with _uncollected():
        return all_pages(kb, repository)


def preview(kb: KnowledgeBase, methods: Iterable[str], *, repository: str = "") -> Iterator[tuple[str, str | bytes]]:
    """The files of `pages` one after the other, the pages of these methods first: what an author looks at."""
    try:
        from ._pages import each_page
        from ._site import Site
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    return each_page(Site(kb, repository), dict.fromkeys([*methods, *kb]))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles: hundreds of thousands of records that stay are looked at again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write(kb: KnowledgeBase, out: str | Path, *, repository: str = "") -> list[Path]:
    """Write the pages below a folder, for a builder that runs no hooks. Files that did not change stay untouched."""
    written = []
    for name, content in pages(kb, repository=repository).items():
        path = Path(out, name)
        data = content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        written.append(path)
    return written


OUT = Path("build/site")
"""Where the site goes, below the working directory."""


def build(kb: KnowledgeBase, out: str | Path = OUT, *, strict: bool = True) -> Path:
    """Build the site into a folder and return it.

    strict: any warning of mkdocs is an error. Raises DataError, or UsageError if mkdocs refuses or is not there.
    """
    # Read by mkdocs-material at import: it silences a notice about another program's future.
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")
    try:
        from mkdocs.commands.build import build as run
        from mkdocs.config import load_config
        from mkdocs.exceptions import MkDocsException
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    told = _Told()
    logging.getLogger("mkdocs").addHandler(told)
    try:
        config = load_config(str(_config_file(kb)), strict=strict, site_dir=str(Path(out).resolve()))
        config.extra["root"] = str(kb.root)
        config.plugins.on_startup(command="build", dirty=False)
        run(config)
        config.plugins.on_shutdown()
    except MkDocsException as error:
        raise UsageError(f"mkdocs: {'; '.join(told.messages) or error}") from None
    finally:
        logging.getLogger("mkdocs").removeHandler(told)
    return Path(out)


class _Told(logging.Handler):
    """What mkdocs warns of; an exception of its own only says that it did."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def serve(
    kb: KnowledgeBase,
    out: str | Path = OUT,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve a built site (building it first if it is not there) until interrupted; `ready` is told the address.

    If the port is taken, the next free one of the following twenty is used.
    """
    folder = Path(out)
    if not (folder / "index.html").is_file():
        build(kb, folder)
    handler = functools.partial(_Quiet, directory=str(folder))
    with _bound(handler, host, port) as server:
        ready(f"http://{host}:{server.server_address[1]}/")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not write a line for every request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers several requests at once: a page asks for its parts together."""

    daemon_threads = True


def _bound(handler: Callable[..., Any], host: str, port: int) -> _Server:
    for number in [*range(port, port + 21)] if port else [0]:
        try:
            return _Server((host, number), handler)
        except OSError:
            continue
    raise UsageError(f"no free port between {port} and {port + 20} on {host}")


def _config_file(kb: KnowledgeBase) -> Path:
    """`mkdocs.yml` beside the data, else the one that comes with the package."""
    beside = kb.root / "mkdocs.yml"
    found = beside if beside.is_file() else data_root() / "mkdocs.yml"
    if not found.is_file():
        raise UsageError(f"found no mkdocs.yml beside {kb.root}")
    return found
