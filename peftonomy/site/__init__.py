"""The site: pages as text from the knowledge base, and the thin layer that builds them with mkdocs.

    >>> import peftonomy
    >>> from peftonomy.site import pages
    >>> sorted(p for p in pages(peftonomy.load()) if p.count("/") == 0)[:3]
    ['about.md', 'api.md', 'architectures.md']

`pages` is pure and needs no mkdocs. mkdocs (through `site/hook.py`), other builders and tests use the same files.

This room may import: every room but conformance and cli. The reference imports the commands that it documents.
"""

from __future__ import annotations

import contextlib
import functools
import http
import http.server
import io
import json
import logging
import os
import socketserver
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import PeftonomyError, Problem, UsageError
from ..files.collector import uncollected
from ..files.documents import dotted
from ..files.output import naming
from ..knowledge.base import KnowledgeBase, Method, data_root

__all__ = ["build", "pages", "preview", "problems", "serve", "write"]

NEEDS = "the site needs its extra: pip install 'peftonomy[site]'"


def pages(kb: KnowledgeBase, *, repository: str = "") -> dict[str, str | bytes]:
    """Return every file of the site's source by its path: markdown, JSON, SVG, scripts, styles and fonts.

    repository: the address before `/edit/main/<file>` in edit links; without it there are no such links. Raises
    DataError for a formula that cannot be rendered, UsageError without the `site` extra or if `repository` is not an
    address.
    """
    try:
        from ._pages import all_pages
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    with uncollected():
        return all_pages(kb, repository)


def problems(kb: KnowledgeBase, methods: Iterable[str]) -> list[Problem]:
    """Return the formulas of these entries that KaTeX rejects, sorted; none without the `site` extra.

    Entries that cannot be read are left out.
    """
    try:
        from ._tex import shared_tex
        from ._text import formulas
    except ModuleNotFoundError:
        return []
    texts: list[tuple[Method, tuple[str | int, ...], str]] = []
    for key in methods:
        try:
            method = kb[key]
        except PeftonomyError:
            continue
        texts.append((method, ("update",), method.entry.update))
        texts += [(method, ("description",), tex) for tex in formulas(method.entry.description)]
        for name, spec in method.entry.hyperparameters.items():
            texts += [(method, ("hyperparameters", name, "symbol"), spec.symbol)] if spec.symbol else []
    try:
        reasons = shared_tex().refusals([tex for _, _, tex in texts])
    except UsageError:
        return []
    return sorted(
        Problem(method.document.path, method.document.line(keys), dotted(keys), tex, "a formula in TeX", reason, "tex")
        for (method, keys, tex), reason in zip(texts, reasons, strict=True)
        if reason
    )


def preview(kb: KnowledgeBase, methods: Iterable[str], *, repository: str = "") -> Iterator[tuple[str, str | bytes]]:
    """Return the files of `pages` one by one, starting with the pages of these methods, for authors."""
    try:
        from ._pages import each_page
        from ._site import Site
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    return each_page(Site(kb, repository), dict.fromkeys([*methods, *kb]))


def write(kb: KnowledgeBase, out: str | Path, *, repository: str = "") -> list[Path]:
    """Write the pages below a folder, for a builder without hooks. Unchanged files are not rewritten."""
    written = []
    for name, content in pages(kb, repository=repository).items():
        path = Path(out, name)
        data = content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != data:
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        written.append(path)
    return written


OUT = Path("build/site")
"""The default output folder, below the working directory."""


Report = Callable[[int, int], None]
"""A function that is called with the number of steps done, and of all steps."""


def build(
    kb: KnowledgeBase, out: str | Path = OUT, *, strict: bool = True, report: Report = lambda done, total: None
) -> Path:
    """Build the site into a folder and return it.

    An existing site is replaced once the new one is complete, and stays if the build fails or is interrupted. Hidden
    files beside it stay. strict: any warning of mkdocs is an error. report: is called as pages are rendered and
    written. Raises DataError for bad data, and UsageError for a folder with other files or if mkdocs fails or is
    missing.
    """
    folder = Path(out).resolve()
    _check_replaceable(folder, Path(out))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with uncollected(), naming(folder), tempfile.TemporaryDirectory(prefix=".peftonomy-", dir=folder) as beside:
            new = Path(beside, "new")
            _run_mkdocs(kb, new, strict, report)
            _exchange(folder, new, Path(beside, "old"))
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return Path(out)


SIGN = ("index.html", "api/v1/index.json")
"""The files that identify a folder as our site. Every version has built them, the second as JSON."""


def _check_replaceable(folder: Path, shown: Path) -> None:
    """Raise UsageError unless a folder is absent, empty except for hidden files, or a site that we have built."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{shown}: found a file; expected a folder for the site")
    if not folder.is_dir() or not _visible(folder):
        return
    try:
        page, index = (folder / name for name in SIGN)
        known = json.loads(index.read_bytes()) if page.is_file() else None
    except (OSError, ValueError, RecursionError):
        known = None
    if not (isinstance(known, dict) and {"schema_version", "methods"} <= known.keys()):
        wanted = "an empty folder, or a site that peftonomy has built; choose another folder or empty this one"
        raise UsageError(f"{shown}: found other files in it; expected {wanted}")


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder whose names do not start with a dot."""
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Move the visible entries of `folder` to `old` and those of `new` to `folder`; undo all moves if one fails."""
    old.mkdir()
    moves = [(path, old / path.name) for path in _visible(folder)]
    moves += [(path, folder / path.name) for path in sorted(new.iterdir())]
    begun: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            begun.append((source, target))
            source.rename(target)
    except BaseException:
        for source, target in reversed(begun):
            with contextlib.suppress(FileNotFoundError):  # the last one may not have moved
                target.rename(source)
        raise


def _run_mkdocs(kb: KnowledgeBase, folder: Path, strict: bool, report: Report) -> None:
    """Build into a folder with mkdocs. Raises the errors of `build`."""
    # mkdocs-material reads this at import; it silences a notice about another program.
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")
    try:
        from mkdocs.commands import build
        from mkdocs.config import load_config
        from mkdocs.exceptions import MkDocsException
    except ModuleNotFoundError as error:
        raise UsageError(f"{NEEDS} (no module {error.name})") from None
    told = _Told()
    logging.getLogger("mkdocs").addHandler(told)
    try:
        config = load_config(str(_config_file()), strict=strict, site_dir=str(folder))
        config.extra["root"], config.extra["report"] = str(kb.root), report
        config.plugins.on_startup(command="build", dirty=False)
        build.build(config)
        config.plugins.on_shutdown()
    except MkDocsException as error:
        raise _ours_behind(error) or UsageError(f"mkdocs: {'; '.join(told.messages) or error}") from None
    finally:
        logging.getLogger("mkdocs").removeHandler(told)


def _ours_behind(error: BaseException) -> PeftonomyError | None:
    """Return our own error that made mkdocs fail, if there is one."""
    cause = error.__cause__ or error.__context__
    return cause if cause is None or isinstance(cause, PeftonomyError) else _ours_behind(cause)


class _Told(logging.Handler):
    """A collector of mkdocs warnings. The exception of mkdocs itself does not contain them."""

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
    """Serve a built site until interrupted, after building it if it is missing. `ready` receives the address.

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
    """A file server that logs no requests."""

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        try:
            return super().send_head()
        except ValueError:  # a path that no file can have, such as one with a null character
            self.send_error(http.HTTPStatus.NOT_FOUND, "File not found")
            return None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A server that handles several requests at once, because a page requests its parts together."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that ends the connection early; its request concerns nobody else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _bound(handler: Callable[..., Any], host: str, port: int) -> _Server:
    last = min(port + 20, 65535)
    for number in range(port, last + 1) if port else [0]:
        try:
            return _Server((host, number), handler)
        except OSError:
            continue
    raise UsageError(f"no free port between {port} and {last} on {host}")


def _config_file() -> Path:
    """Return our `mkdocs.yml`. One beside other data is not used, because it can name code to run."""
    found = data_root() / "mkdocs.yml"
    if not found.is_file():
        raise UsageError(f"found no mkdocs.yml in {data_root()}")
    return found
