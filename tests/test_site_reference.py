"""The reference pages: nothing that is public is missing, and what they show comes from the source."""

from __future__ import annotations

import html
import inspect
import re

import click
import pytest

import peftonomy
from peftonomy import KnowledgeBase
from peftonomy.cli.main import cli
from peftonomy.site._reference import _paragraphs, reference_pages
from peftonomy.site._site import Site


@pytest.fixture(scope="module")
def made(kb: KnowledgeBase) -> dict[str, str]:
    return dict(reference_pages(Site(kb)))


def test_every_public_name_and_method_has_its_docstring(made: dict[str, str]) -> None:
    page = made["reference/python.md"]
    for name in peftonomy.__all__:
        one = getattr(peftonomy, name)
        assert f"### {name} " in page
        if not inspect.isclass(one):
            continue
        for member, value in inspect.getmembers(one):
            ours = inspect.isfunction(value) and value.__module__.startswith("peftonomy.")
            if not ours or member.startswith("_") or issubclass(one, BaseException):
                continue
            assert f'id="{name}.{member}"' in page, (name, member)
    text = re.sub("<[^>]+>", "", page)
    assert "Return the counts of the method on a model." in text
    assert "on(model: ModelLike, *, targets: str | list[str] | tuple[str, ...] | None = None" in text
    for result in ("Sweep", "Memory", "Fit", "Comparison", "MethodOn", "Graph"):
        assert f"### {result} " in page
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r"^### \S+ \{ #(\S+) \}$", page, re.MULTILINE))


def test_every_command_has_its_options(made: dict[str, str]) -> None:
    page = html.unescape(re.sub("<[^>]+>", "", made["reference/cli.md"]))
    commands = [("", cli), *cli.commands.items(), *((f"site {n}", c) for n, c in cli.commands["site"].commands.items())]
    for name, command in commands:
        assert f"## peftonomy {name}".rstrip() + " { #" in page
        for param in command.params:
            if isinstance(param, click.Option):
                assert max(param.opts, key=len) in page
                assert (param.help or "") in page


def test_arguments_of_a_docstring_are_a_list() -> None:
    text = "Return it. a: the first, in `code`; b: the second. Not: this. Raises Error for all."
    assert str(_paragraphs(text, {"a", "b"})) == (
        "<p>Return it.</p><ul><li><code>a</code>: the first, in <code>code</code>;</li>"
        "<li><code>b</code>: the second. Not: this.</li></ul><p>Raises Error for all.</p>"
    )
    assert str(_paragraphs("<b> a: x")) == "<p>&lt;b&gt; a: x</p>"
