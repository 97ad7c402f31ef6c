"""The guides of the site as tests read them: files to write, commands with their output, and sessions of Python."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    kind: str
    title: str
    text: str


def blocks(root: Path, guide: str) -> list[Block]:
    """The fenced blocks of a guide, in order."""
    text = (root / "site" / "pages" / "guides" / f"{guide}.md").read_text(encoding="utf-8")
    return [Block(*match.groups("")) for match in BLOCK.finditer(text)]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that follows it."""
    for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = example.partition("\n")
        yield command, output


def same(shown: str, printed: str) -> bool:
    """Whether a guide shows what is printed; `...` stands for any text."""
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)
