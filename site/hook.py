"""The thin layer between the renderer and mkdocs: it hands the pages over as generated files, and does nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin
from xml.sax.saxutils import escape

import jinja2
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext

import peftonomy
from peftonomy.site import pages
from peftonomy.site._around import Around
from peftonomy.site._preview import WATCHED, Built, Preview, Source, seen

LISTED = ("methods/", "categories/", "models/", "lists/", "reference/", "guides/")
"""Folders whose pages are reached by lists, search and links, not by the menu: a menu of hundreds helps nobody and
would be printed into every page."""
BEHIND = ("api.md", "lists/index.md", "timeline.md", "matrix.md", "crosswalk.md")
"""Pages behind one of the menu's doors."""


SITEMAP = "sitemap.xml"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Drop the theme's sitemap, which holds the day of the build, and read the repository's address.

    Two builds of one commit must be equal.
    """
    config.theme.static_templates.discard(SITEMAP)
    config.extra["repository"] = str(config.extra.get("repository") or "").rstrip("/")
    return config


def on_serve(server: LiveReloadServer, config: MkDocsConfig, builder: Callable[[], None]) -> LiveReloadServer:
    """Rebuild when an entry, a template or a style changes; after the edit of an entry, its own page first."""
    for folder in (_root(config) / name for name in WATCHED):
        if folder.is_dir():
            server.watch(str(folder))
    global _preview
    server.builder = _preview = Preview(builder, lambda: _built)
    return server


def on_shutdown() -> None:
    """Let the preview end before its folder is gone."""
    if _preview is not None:
        _preview.end()


def on_startup(command: str, dirty: bool) -> None:
    """Remember whether mkdocs serves."""
    global _serving
    _serving = command == "serve"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put every page and asset of the knowledge base in place of the templates that lie in the docs folder."""
    global _source
    root, repository = _root(config), str(config.extra["repository"])
    before = seen(root) if _serving else {}
    try:
        kb = peftonomy.load(root)
        made = pages(kb, repository=repository)
    except peftonomy.PeftonomyError as error:
        raise PluginError(str(error)) from error  # the cause is what `peftonomy site build` reports
    # No longer known as a template, the theme's sitemap would be copied as it is.
    for template in [f for f in files if f.src_dir == config.docs_dir or f.src_uri == SITEMAP]:
        files.remove(template)
    for path, content in made.items():
        listed = path in BEHIND or (path.startswith(LISTED) and not path.endswith("index.md"))
        level = InclusionLevel.NOT_IN_NAV if listed else InclusionLevel.INCLUDED
        files.append(File.generated(config, path, content=content, inclusion=level))
    if config.site_url:
        files.append(File.generated(config, SITEMAP, content=_sitemap(files, config.site_url)))
    if _serving:
        _source = Source(kb, before, made, repository)
    return files


def _sitemap(files: Files, address: str) -> str:
    """Return the sitemap: the address of every page. Its format has no relative addresses."""
    urls = sorted(urljoin(address, file.url) for file in files.documentation_pages())
    rows = "".join(f"<url><loc>{escape(url)}</loc></url>\n" for url in urls)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return f"{head}{rows}</urlset>\n"


# While mkdocs serves, what the last build made is kept for the preview after the next edit.

_serving = False
_preview: Preview | None = None
_source: Source
_nav: Navigation
_built: Built


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Keep the menu, and count the pages."""
    global _nav, _done, _pages
    _nav, _done, _pages = nav, 0, len(files.documentation_pages())
    return nav


_done = _pages = 0


def _step(config: MkDocsConfig) -> None:
    """Report that one more page is rendered or written. Each is a step."""
    global _done
    _done += 1
    if report := config.extra.get("report"):
        report(_done, 2 * _pages)


def on_env(env: jinja2.Environment, config: MkDocsConfig, files: Files) -> jinja2.Environment:
    """Keep what pages are built with."""
    global _built
    if _serving:
        _built = Built(_source, config, files, _nav, env)
    return env


# What is HTML already goes around Markdown and the search.

_around: dict[str, Around] = {}
"""By page, while it is built."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave blocks of HTML out."""
    around = _around[page.file.src_uri] = Around()
    return around.cut(markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put back what is searched."""
    _step(config)
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
    """Write the policy into a page, whose content nobody asks for any more."""
    _step(config)
    page.content = None
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
