"""Keep HTML blocks away from Markdown, which would parse them tag by tag without changing them.

A page's source is Markdown headings and prose with blocks of HTML between them. Marks replace the blocks while Markdown
runs.
"""

from __future__ import annotations

import re

__all__ = ["Around"]

BLOCK = re.compile(r"<(details|div|dl|figure|nav|ol|p|section|table|ul)\b")
"""Matches the start of an HTML block: an element that Markdown treats as a block."""
EMPTY, FENCE = "\n\n", "\n```"
FIRST = re.compile(r"\n*")
FENCED = re.compile(r"(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!--around (\d+)-->")
AFTER_NAME = " >\n"


class Around:
    """The parts of one page that marks replace."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def cut(self, markdown: str) -> str:
        """Return the page with a mark for each block of HTML. A block without a certain end stays.

        A block begins the page, or follows an empty line or another block.
        """
        out, at, here = list[str](), 0, len(markdown) - len(markdown.lstrip("\n"))
        while 0 <= here < len(markdown):
            if fence := FENCED.match(markdown, here):
                here = _next(markdown, fence.end())
                continue
            block = BLOCK.match(markdown, here)
            end = _end(markdown, here, block[1]) if block else 0
            if not end or markdown[end : end + 1] not in ("\n", ""):
                here = _next(markdown, here)
                continue
            out += [markdown[at:here], self._mark(markdown[here:end])]
            at, here = end, end + 1 if markdown[end + 1 : end + 2] == "<" else _next(markdown, end)
        return "".join(out) + markdown[at:]

    def whole(self, html: str) -> str:
        """Return the page with all blocks restored."""
        return MARK.sub(lambda m: self._parts[int(m[1])], html)

    def _mark(self, part: str) -> str:
        self._parts.append(part)
        return f"<!--around {len(self._parts) - 1}-->"


def _next(text: str, at: int) -> int:
    """Return the start of the next line behind `at` that follows an empty line or begins a fence; -1 if none does."""
    empty = text.find(EMPTY, at)
    fence = text.find(FENCE, at, empty + len(FENCE) if empty >= 0 else len(text))
    if fence >= 0 and (empty < 0 or fence < empty):
        return fence + 1
    return FIRST.match(text, empty).end() if empty >= 0 else -1  # type: ignore[union-attr]  # it matches anywhere


def _end(text: str, start: int, name: str) -> int:
    """Return the end of the element that begins at `start`; 0 if it has none."""
    closing, depth, at = f"</{name}>", 0, start
    while (close := text.find(closing, at)) >= 0:
        depth += sum(text.count(f"<{name}{after}", at, close) for after in AFTER_NAME) - 1
        at = close + len(closing)
        if not depth:
            return at
    return 0
