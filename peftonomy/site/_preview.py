"""Rebuild after an edit under `mkdocs serve`: the page of the edited entry at once, all other pages in a thread.

mkdocs rebuilds everything whenever a file changes. If only entries or their modules changed, this module replaces that:
it keeps the result of the last whole build, and builds the pages whose text differs. mkdocs still handles any other
change, and any new entry.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jinja2
from mkdocs.commands.build import _build_page, _populate_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

from ..errors import PeftonomyError
from ..knowledge.base import KnowledgeBase
from . import preview

__all__ = ["WATCHED", "Built", "Preview", "Source", "seen"]

WATCHED = ("methods", "taxonomy", "backbones", "reference_impls", "site")
OWN = ("methods", "reference_impls")
"""The folders with one file for each method."""
log = logging.getLogger("mkdocs.hooks.preview")


@dataclass
class Source:
    """The inputs of a whole build, and its files."""

    kb: KnowledgeBase
    seen: dict[Path, bytes | int]
    made: dict[str, str | bytes]
    repository: str


@dataclass
class Built:
    """A whole build, with the objects by which mkdocs builds its pages."""

    source: Source
    config: MkDocsConfig
    files: Files
    nav: Navigation
    env: jinja2.Environment


def seen(root: Path) -> dict[Path, bytes | int]:
    """Return the state of a build's inputs: the content of each entry, and the modification time of all other files."""
    return dict(_seen(root))


def _seen(root: Path) -> Iterator[tuple[Path, bytes | int]]:
    for folder in WATCHED:
        for path in sorted((root / folder).rglob("*")):
            if folder == "methods":
                if path.suffix == ".yaml":  # editors create temporary files there
                    yield path, path.read_bytes()
            elif path.is_file() and "__pycache__" not in path.parts:
                yield path, path.stat().st_mtime_ns


class Preview:
    """A builder for the server of mkdocs.

    whole: mkdocs's own builder. built: returns the last whole build. Browser requests wait while this runs. Therefore
    only the pages of the edited entries are built here. A thread builds the others, and the next edit stops it.
    """

    def __init__(self, whole: Callable[[], None], built: Callable[[], Built]):
        self._whole, self._built = whole, built
        self._thread, self._stop = threading.Thread(), threading.Event()

    def __call__(self) -> None:
        self.end()
        built = self._built()
        source = built.source
        now, before = seen(source.kb.root), source.seen
        edited = [path for path in now if now[path] != before.get(path)]
        methods = list(dict.fromkeys(path.stem for path in edited))
        own = all(path.parent.name in OWN and path.stem in source.kb for path in edited)
        if now.keys() != before.keys() or not own:
            self._whole()
            return
        source.seen = now
        try:
            source.kb = source.kb.reread(methods)
            rest = preview(source.kb, methods, repository=source.repository)
            _place(built, islice(rest, len(methods)))
        except PeftonomyError as error:
            log.error(str(error))
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._place_rest, args=(built, rest, self._stop), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread; unfinished pages are not built."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _place_rest(self, built: Built, rest: Iterable[tuple[str, str | bytes]], stop: threading.Event) -> None:
        try:
            _place(built, rest, stop)
        except PeftonomyError as error:
            log.error(str(error))


def _place(built: Built, pages: Iterable[tuple[str, str | bytes]], stop: threading.Event | None = None) -> None:
    """Build the changed files. Raises DataError."""
    made = built.source.made
    for path, content in pages:
        if stop is not None and stop.is_set():
            return
        file = built.files.get_file_from_path(path)
        if content == made.get(path) or file is None:
            continue
        if file.page is not None and isinstance(content, str):
            file.content_string = content
            _build(built, file.page)
        else:
            _write(Path(file.abs_dest_path), content.encode() if isinstance(content, str) else content)
        made[path] = content


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, because the server may be reading it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _build(built: Built, page: Page) -> None:
    """Build a page as mkdocs does in a whole build."""
    _populate_page(page, built.config, built.files)
    _build_page(page, built.config, built.files.documentation_pages(), built.nav, built.env)
