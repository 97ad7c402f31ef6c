"""Commands that write files and scripts: the graph, the site, a shell's completion script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..files import output as out
from .options import FilePath, Whole, cli, knowledge

F = TypeVar("F", bound=Callable[..., Any])


@cli.command()
@click.option(
    "--format", "form", required=True, help="Output format.", type=click.Choice(["json", "graphml", "dot", "mermaid"])
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write to this file instead of stdout.",
    type=FilePath(dir_okay=False, path_type=Path),
)
def graph(form: str, output: Path | None) -> None:
    """Print the graph of categories, methods and papers."""
    text = knowledge().graph.export(form)
    if output is None:
        return out.print_exactly(text)
    return out.write_atomically({output: text + "\n"})


# The site and the shell


@cli.group()
def site() -> None:
    """Build the site, serve it, or write its pages."""


SITE = Path("build/site")
PAGES = Path("build/pages")


def folder_option(default: Path) -> Callable[[F], F]:
    """Add the option that names the output folder."""
    kind = FilePath(file_okay=False, path_type=Path)
    return click.option(
        "--out", "folder", metavar="DIR", default=default, show_default=True, type=kind, help="Output folder."
    )


@site.command()
@folder_option(SITE)
def build(folder: Path) -> None:
    """Build the static site.

    The environment can name where it is published (PEFTONOMY_SITE_URL), for canonical links and a sitemap, and its
    repository (PEFTONOMY_REPOSITORY), for links that edit a page.
    """
    from .. import site

    with out.bar("building the site") as report:
        site.build(knowledge(), folder, report=report)
    click.echo(f"{sum(1 for path in folder.rglob('*') if path.is_file()):,} files in {folder}")


@site.command(name="pages")
@folder_option(PAGES)
@click.option("--repository", metavar="URL", default="", help="The address before /edit/main/FILE in edit links.")
def write_pages(folder: Path, repository: str) -> None:
    """Write the site's pages to a folder, for a builder other than mkdocs.

    Markdown, JSON, scripts, styles and fonts, as `site build` passes them to mkdocs.
    """
    from .. import site

    with out.progress("writing the pages"):
        written = site.write(knowledge(), folder, repository=repository)
    click.echo(f"{len(written):,} files in {folder}")


@site.command()
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    default=SITE,
    show_default=True,
    type=FilePath(file_okay=False, path_type=Path),
    help="The folder that `site build` wrote.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=Whole(0, 65535),
    default=8000,
    show_default=True,
    help="0 picks a free port.",
)
def serve(folder: Path, port: int) -> None:
    """Serve the site on 127.0.0.1 until Ctrl-C. Builds it first if the folder does not exist."""
    from .. import site

    site.serve(knowledge(), folder, port=port, ready=lambda url: click.echo(f"{folder} is on {url} until Ctrl-C"))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash: peftonomy completion bash > ~/.local/share/bash-completion/completions/peftonomy
    zsh:  peftonomy completion zsh > somewhere/in/$fpath/_peftonomy
    fish: peftonomy completion fish > ~/.config/fish/completions/peftonomy.fish
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(cli, {}, "peftonomy", "_PEFTONOMY_COMPLETE").source())
