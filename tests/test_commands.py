"""Every command of ours that a page, a document or a docstring names is one that the command line has."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from peftonomy.cli.main import cli

from .site_kit import Pages

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "benchmarks/README.md", ".github")
NAMED = re.compile(
    r"`peftonomy (?P<quoted>[^`]+)`"
    r"|<code>peftonomy (?P<code>.*?)</code>"
    r"|^(?:\$|<b>\$</b>|.*<samp><b>\$</b>) peftonomy (?P<prompted>.*)$",
    re.MULTILINE | re.DOTALL,
)


def commands(text: str) -> Iterator[str]:
    """Arguments after the program's name, as code, as a docstring or after a prompt."""
    for match in NAMED.finditer(text):
        first = next(found for found in match.groups() if found is not None)
        line = first.split("\n")[0] if match["prompted"] else first
        yield " ".join(re.sub("<[^>]+>", "", html.unescape(line)).split())


def refusal(line: str) -> str | None:
    """Why click does not take a command; placeholders stand for any value."""
    command: click.Command = cli
    context, words = click.Context(cli, info_name="peftonomy"), shlex.split(line)
    while True:
        parser = command.make_parser(context)
        try:
            _, rest, _ = parser.parse_args(list(words))
        except click.UsageError as error:
            return error.format_message()
        if not isinstance(command, click.Group):
            return f"Got unexpected extra arguments {rest}" if rest else None
        if not rest:
            return None
        name, words = rest[0], rest[1:]
        found = command.get_command(context, name)
        if found is None:
            return f"No such command {name!r}."
        command, context = found, click.Context(found, info_name=name, parent=context)


def texts(root: Path) -> Iterator[tuple[str, str]]:
    for name in DOCUMENTS:
        for path in [p for p in (root / name).rglob("*") if p.is_file()] or [root / name]:
            yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((root / "peftonomy").rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def test_documents_name_commands_that_exist(root: Path) -> None:
    named = [(path, line) for path, text in texts(root) for line in commands(text)]
    assert {"README.md", "CONTRIBUTING.md", "CITATION.cff", "peftonomy/cli/browse.py"} <= {path for path, _ in named}
    assert [(path, line, refusal(line)) for path, line in named if refusal(line)] == []


@pytest.mark.slow
def test_pages_name_commands_that_exist(made: Pages) -> None:
    shown = {path: str(text) for path, text in made.items() if path.endswith(".md")}
    named = [(path, line) for path, text in shown.items() for line in commands(text)]
    assert {"index.md", "planner.md", "contribute.md", "memory.md"} <= {path for path, _ in named}
    assert [(path, line, refusal(line)) for path, line in named if refusal(line)] == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("run `peftonomy list`", "list", "No such command 'list'."),
        ("<code>peftonomy site bake</code>", "site bake", "No such command 'bake'."),
        ("$ peftonomy cost lora --modell x\n4", "cost lora --modell x", "No such option '--modell'."),
        ("`peftonomy cite lora\n--json\n-x`", "cite lora --json -x", "No such option"),
        ("`peftonomy fit lora --gpu`", "fit lora --gpu", "Option '--gpu' requires an argument."),
        ("`peftonomy new one two`", "new one two", "Got unexpected extra argument"),
    ],
)
def test_a_command_that_does_not_exist_is_found(text: str, line: str, reason: str) -> None:
    assert list(commands(text)) == [line]
    assert reason in (refusal(line) or "")
