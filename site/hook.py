"""The thin layer between the renderer and mkdocs: it hands the pages over as generated files, and does nothing else."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.structure.files import File, Files, InclusionLevel

import peftonomy
from peftonomy.site import pages

LISTED = ("methods/", "categories/", "models/")
"""Folders whose pages are reached by lists, search and links, not by the menu: a menu of hundreds helps nobody and
would be printed into every page."""


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
        made = pages(peftonomy.load(_root(config)), repository=config.extra.get("repository", ""))
    except peftonomy.PeftonomyError as error:
        raise PluginError(str(error)) from None
    for template in [f for f in files if f.src_dir == config.docs_dir]:
        files.remove(template)
    for path, content in made.items():
        listed = path.startswith(LISTED) and not path.endswith("index.md")
        level = InclusionLevel.NOT_IN_NAV if listed else InclusionLevel.INCLUDED
        files.append(File.generated(config, path, content=content, inclusion=level))
    return files


def _root(config: MkDocsConfig) -> Path:
    """The folder with the data: the one that `peftonomy.site.build` names, else that of mkdocs.yml."""
    return Path(config.extra.get("root") or Path(config.config_file_path).parent)
