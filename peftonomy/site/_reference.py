"""The reference: Python from the docstrings, the command line from its own help, tools for assistants, and the guides.

The docstrings are read from the source, so that no module of the package is imported for them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Set
from functools import cache
from pathlib import Path
from typing import Any

import click
import griffe
from markupsafe import Markup, escape

from ._site import Site, View
from ._text import inline

__all__ = ["GUIDES", "reference_pages"]

DOOR = {"door": "Reference"}
GUIDES = {
    "size": ("Size a fine-tune", "Find a method and a setting that fit your GPU."),
    "gpus": ("Train on several GPUs", "Find how many GPUs you need, and what each of them holds."),
    "compare": ("Compare methods", "Put methods side by side on one model."),
    "adapter": ("Check a saved adapter", "Count what a saved adapter_config.json trains and stores."),
    "study": ("Train and compare", "Train many methods under one protocol, and see which can be told apart."),
    "add": ("Add a method", "Write the entry and the implementation of a method."),
}
"""The guides with their titles and descriptions; their text is in `site/pages/guides/`."""
PACKAGE = Path(__file__).parents[1]
FRONTS = ("cli", "site")
"""The rooms that use all others. No public name is theirs, and none returns an instance of theirs."""
MARKED = re.compile(r"`([^`]+)`")
NAMED = re.compile(r"(?:^|(?<=[.;] ))((?:\w+, )*\w+): ")
"""The start of `name: meaning.` in a docstring, as this package describes arguments and fields."""
LAST = re.compile(r"(?<=\.) (?=(?:Raises|Returns|Needs|Other keywords) )")
"""The end of the last meaning: what follows is about the whole."""


def reference_pages(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the pages behind the door Reference."""

    def page(path: str, title: str, description: str, **values: object) -> tuple[str, str]:
        return path, site.page(path, title, description, DOOR, **values)

    guides = [{"path": f"{key}.html", "title": t, "about": about} for key, (t, about) in GUIDES.items()]
    about = "Python, the command line, the JSON API, assistants, and guides."
    yield "reference/index.md", site.page("reference/index.md", "Reference", about, {"hide": ["toc"]}, guides=guides)
    names, results = _documented()
    yield page(
        "reference/python.md", "Python", "The public classes and functions of the package.",
        names=names, results=results,
    )  # fmt: skip
    yield page("reference/cli.md", "Command line", "Every command with its options.", commands=_commands())
    yield page("reference/assistants.md", "Assistants", "The tools that an assistant can call.", tools=_tools())
    for key, (title, description) in GUIDES.items():
        yield page(f"guides/{key}.md", title, description, measured=bool(site.kb.studies))


# The command line. It imports this package when it builds the site, so it is imported when a page needs it.


@cache
def _commands() -> list[View]:
    """Return every command with its usage, its help and its options, in the order of the modules."""
    from ..cli.main import cli

    return list(_command(cli, click.Context(cli, info_name="peftonomy")))


def _command(command: click.Command, context: click.Context) -> Iterator[View]:
    """Yield a command and those below it."""
    params = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    records = [record for param in params if (record := param.get_help_record(context))]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    about, _, example = (command.help or "").partition("\b")
    yield {
        "name": context.command_path, "heading": Markup(inline(context.command_path)),
        "anchor": context.command_path.replace(" ", "-"), "usage": usage, "text": _paragraphs(about),
        "example": inspect.cleandoc(example), "options": [record for record in records if "--help" not in record[0]],
    }  # fmt: skip
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))


def _tools() -> list[View]:
    """Return every tool of `peftonomy mcp` with its arguments."""
    from ..cli import assistant

    return [
        {
            "name": name, "text": (command.help or "").partition("\n")[0],
            "arguments": list(assistant.schema(command)["properties"]),
        }
        for name, command in assistant.tools().items()
    ]  # fmt: skip


# Python


class _Finder(griffe.ModuleFinder):
    """A finder that leaves out the rooms of `FRONTS`."""

    def submodules(self, module: griffe.Module) -> list[tuple[tuple[str, ...], Path]]:
        return [(parts, path) for parts, path in super().submodules(module) if parts[0] not in FRONTS]


@cache
def _documented() -> tuple[list[View], list[View]]:
    """Return the public names, and the other classes of which their methods and properties return instances."""
    loader = griffe.GriffeLoader(search_paths=[PACKAGE.parent], allow_inspection=False)
    loader.finder = _Finder([PACKAGE.parent])
    package: Any = loader.load(PACKAGE.name)
    public = [_target(package["public"][name]) for name in package["public"].exports]
    known = {one.path: one for one in public}
    returned = {one.path: one for owner in public for one in _returned(owner, package) if one.path not in known}
    links = {one.name: f"#{one.name}" for one in (*public, *returned.values())}
    functions_last = sorted(public, key=lambda one: (one.is_function, one.name))
    by_name = sorted(returned.values(), key=lambda one: one.name)
    return [_described(one, links) for one in functions_last], [_described(one, links) for one in by_name]


def _target(one: Any) -> Any:
    return one.final_target if one.is_alias else one


def _members(owner: Any) -> list[Any]:
    """Return the public members of a class, inherited ones included; a function is its own only member."""
    if owner.is_function:
        return [owner]
    return [_target(one) for name, one in owner.all_members.items() if not name.startswith("_")]


def _returned(owner: Any, package: Any) -> Iterator[Any]:
    """Yield the classes of the package that annotate what a name's members return."""
    for member in _members(owner):
        found = member.returns if member.is_function else member.annotation if "property" in member.labels else None
        for path in dict.fromkeys(part.canonical_path for part in _parts(found) if hasattr(part, "canonical_path")):
            if path.startswith(f"{PACKAGE.name}.") and (one := _looked_up(package, path)).is_class:
                yield one


def _looked_up(package: Any, path: str) -> Any:
    return _target(package[path.removeprefix(f"{PACKAGE.name}.")])


def _parts(annotation: Any) -> Iterable[Any]:
    return annotation.iterate(flat=True) if hasattr(annotation, "iterate") else ()


def _described(one: Any, links: dict[str, str]) -> View:
    """Return a class or a function for the page."""
    members = [] if one.is_function else [m for m in _members(one) if m.docstring]
    fields = [] if one.is_function else [m for m in _members(one) if m.is_attribute and "property" not in m.labels]
    return {
        "name": one.name, "heading": Markup(inline(one.name)), "module": one.module.path,
        "bases": [_linked(base, links) for base in getattr(one, "bases", ())],
        "signature": _signature(one, links) if one.is_function else "", "text": _docstring(one),
        "fields": [{"name": m.name, "type": _linked(m.annotation, links)} for m in fields if m.annotation is not None],
        "members": [
            {"name": m.name, "signature": _signature(m, links), "text": _docstring(m)}
            for m in members if m.is_function or "property" in m.labels
        ],
    }  # fmt: skip


def _signature(one: Any, links: dict[str, str]) -> Markup:
    """Return a function as it is called and what it returns, or a property with its type."""
    if not one.is_function:
        return Markup("<b>{}</b>: {}").format(one.name, _linked(one.annotation, links))
    shown, kind = [], ""
    for param in one.parameters:
        if param.name in ("self", "cls"):
            continue
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(param.kind.value, "")
        if param.kind.value == "keyword-only" and kind not in ("keyword-only", "variadic positional"):
            shown.append(Markup("*"))
        kind = param.kind.value
        typed = Markup(": {}").format(_linked(param.annotation, links)) if param.annotation is not None else ""
        default = f" = {param.default}" if param.default is not None and not star else ""
        shown.append(Markup("{}{}{}{}").format(star, param.name, typed, default))
    returns = Markup(" → {}").format(_linked(one.returns, links)) if one.returns is not None else ""
    return Markup("<b>{}</b>({}){}").format(one.name, Markup(", ").join(shown), returns)


def _linked(annotation: Any, links: dict[str, str]) -> Markup:
    """Return an annotation with a link at each class that the page describes."""
    words = re.split(r"(\w+)", str(annotation))
    return Markup("").join(
        Markup('<a href="{}">{}</a>').format(links[word], word) if word in links else escape(word) for word in words
    )


def _docstring(one: Any) -> Markup:
    names = {param.name for param in one.parameters} if one.is_function or one.is_class else set()
    if one.is_class:
        names |= {member.name for member in _members(one)}
    return _paragraphs(one.docstring.value if one.docstring else "", names)


def _paragraphs(text: str, names: Set[str] = frozenset()) -> Markup:
    """Return a docstring's paragraphs with `code`.

    An example of a session is a block. `name: meaning.` with one of the names, or several, starts an item of a list.
    """
    blocks = [block for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    return Markup("\n").join(_block(" ".join(block.split()), block, names) for block in blocks)


def _block(line: str, source: str, names: Set[str]) -> Markup:
    if line.startswith(">>>"):
        return Markup("<pre><code>{}</code></pre>").format(inspect.cleandoc(source))
    first, *parts = NAMED.split(line)
    items: list[tuple[str, str]] = []
    for name, meaning in zip(parts[::2], parts[1::2], strict=True):
        if set(name.split(", ")) <= names:
            items.append((name, meaning))
        elif items:
            items[-1] = (items[-1][0], f"{items[-1][1]}{name}: {meaning}")
        else:
            first += f"{name}: {meaning}"
    head = Markup("<p>{}</p>").format(_spans(first)) if first.strip() else Markup("")
    if not items:
        return head
    meaning, *after = LAST.split(items[-1][1], maxsplit=1)
    items[-1] = (items[-1][0], meaning)
    shown = (Markup("<li><code>{}</code>: {}</li>").format(name, _spans(meaning)) for name, meaning in items)
    return head + Markup("<ul>{}</ul>").format(Markup("").join(shown)) + _block("".join(after), "", frozenset())


def _spans(text: str) -> Markup:
    parts = MARKED.split(" ".join(text.split()))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))
