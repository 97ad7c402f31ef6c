"""The thin layer between the renderer and mkdocs: it hands the pages over as generated files, and does nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext

import peftonomy
from peftonomy.site import pages, preview
from peftonomy.site._around import Around

LISTED = ("methods/", "categories/", "models/", "lists/")
"""Folders whose pages are reached by lists, search and links, not by the menu: a menu of hundreds helps nobody and
would be printed into every page."""
BEHIND = ("lists/index.md", "timeline.md", "matrix.md", "crosswalk.md")
"""Pages behind one of the menu's doors."""

WATCHED = ("methods", "taxonomy", "backbones", "reference_impls", "site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave the sitemap out: it would carry the day of the build, and two builds of one commit are to be equal."""
    config.theme.static_templates.discard("sitemap.xml")
    return config


def on_serve(server: LiveReloadServer, config: MkDocsConfig, builder: object) -> LiveReloadServer:
    """Rebuild when an entry, a template or a style changes."""
    for folder in (_root(config) / name for name in WATCHED):
        if folder.is_dir():
            server.watch(str(folder))
    return server


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put every page and asset of the knowledge base in place of the templates that lie in the docs folder."""
    try:
        made = _made(config)
    except peftonomy.PeftonomyError as error:
        raise PluginError(str(error)) from None
    for template in [f for f in files if f.src_dir == config.docs_dir]:
        files.remove(template)
    for path, content in made.items():
        listed = path in BEHIND or (path.startswith(LISTED) and not path.endswith("index.md"))
        level = InclusionLevel.NOT_IN_NAV if listed else InclusionLevel.INCLUDED
        file = Made if _dirty and content == _last.get(path) else File
        files.append(file.generated(config, path, content=content, inclusion=level))
    _last.update(made)
    return files


# An author's preview, `mkdocs serve --dirty --no-strict` (mkdocs warns of every dirty build): after an edit of entries
# only their own pages are made and built anew. What other pages say of them (lists, counts, relations seen from the
# other end) stays as it was until something else than an entry changes, or until the next start.

_serving = _dirty = False
_last: dict[str, str | bytes] = {}
"""The files of the last build."""
_seen: dict[Path, bytes | int] = {}
"""What the last build read: the content of each entry, and of all else when it was changed."""


class Made(File):
    """A file that the last build has written already."""

    def is_modified(self) -> bool:
        """Whether it has to be built: no, unless it is not there."""
        return not Path(self.abs_dest_path).is_file()


def on_startup(command: str, dirty: bool) -> None:
    """Remember whether mkdocs serves: the script that it then puts into pages changes with each build."""
    global _serving, _dirty
    _serving, _dirty = command == "serve", command == "serve" and dirty


def _made(config: MkDocsConfig) -> dict[str, str | bytes]:
    """Every file; in a preview those of the last build, with the pages of the entries that were edited since."""
    global _seen
    root, repository = _root(config), config.extra.get("repository", "")
    if not _dirty:
        return pages(peftonomy.load(root), repository=repository)
    before, now = _seen, dict(_read(root))
    kb = peftonomy.load(root)
    edited = [path for path in now if now[path] != before.get(path)]
    if before.keys() == now.keys() and all(path.parent == root / "methods" for path in edited):
        made = _last | preview(kb, [path.stem for path in edited], repository=repository)
    else:
        made = pages(kb, repository=repository)
    _seen = now
    return made


def _read(root: Path) -> Iterator[tuple[Path, bytes | int]]:
    for folder in WATCHED:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, path.read_bytes() if path.parent == root / "methods" else path.stat().st_mtime_ns


# What is HTML already goes around Markdown and the search.

_around: dict[str, Around] = {}
"""By page, while it is built."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave blocks of HTML out."""
    around = _around[page.file.src_uri] = Around()
    return around.cut(markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put back what is searched."""
    return _around[page.file.src_uri].searched(html)


# The Content-Security-Policy. A page can only say it in a meta element, and what an entry says can add nothing to it:
# scripts in a page's content are refused, so that the inline scripts which are let in by their hash are the theme's.

POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:",
    "font-src": "'self'", "connect-src": "'self'", "worker-src": "'self'", "manifest-src": "'self'",
    "object-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
}  # fmt: skip
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
CHARSET = '<meta charset="utf-8">'


def on_page_context(context: TemplateContext, page: Page, config: MkDocsConfig, nav: Navigation) -> TemplateContext:
    """Put a page together (plugins come before hooks, so the search has read it), and refuse a script in it."""
    page.content = _around.pop(page.file.src_uri).whole(page.content or "")
    if SCRIPT.search(page.content):
        raise PluginError(f"{page.file.src_uri}: a script in the page's content")
    return context


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Write the policy into a page."""
    return _guarded(output)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Write the policy into the pages that the theme makes by itself (404.html)."""
    return _guarded(output_content) if template_name.endswith(".html") else output_content


def _guarded(html: str) -> str:
    """The page with its policy first, before anything that the policy rules."""
    if _serving:
        return html
    hashes = dict.fromkeys(_hash(body) for attributes, body in SCRIPT.findall(html) if _runs(attributes))
    policy = POLICY | {"script-src": " ".join([POLICY["script-src"], *hashes])}
    content = "; ".join(f"{name} {sources}" for name, sources in policy.items())
    return html.replace(CHARSET, f'{CHARSET}\n<meta http-equiv="Content-Security-Policy" content="{content}">', 1)


def _runs(attributes: str) -> bool:
    """Whether it is an inline script, not a file's and not data."""
    return not re.search(r"""\bsrc=|type=["']?application/json""", attributes)


def _hash(body: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"


def _root(config: MkDocsConfig) -> Path:
    """The folder with the data: the one that `peftonomy.site.build` names, else that of mkdocs.yml."""
    return Path(config.extra.get("root") or Path(config.config_file_path).parent)
