"""Keep HTML blocks away from Markdown, which would parse them tag by tag without changing them.

A page's source is Markdown headings and prose with blocks of HTML between them. Marks replace the blocks while Markdown
runs.
"""

from __future__ import annotations

import re

__all__ = ["Around"]

BLOCK = re.compile(r"(?:^|(?<=\n\n))<(div|dl|p|section|table|ul|ol)\b")
"""Matches the start of an HTML block: after an empty line, an element that Markdown treats as a block."""
FENCE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!--around (\d+)-->")


class Around:
    """The parts of one page that marks replace."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def cut(self, markdown: str) -> str:
        """Return the page with a mark for each block of HTML. A block without a certain end stays."""
        out, at = list[str](), 0
        fences = [m.span() for m in FENCE.finditer(markdown)]
        for match in BLOCK.finditer(markdown):
            start = match.start()
            if start < at or any(a <= start < b for a, b in fences):
                continue
            end = _end(markdown, start, match[1])
            if end and markdown[end : end + 2] in ("\n\n", "\n", ""):
                out += [markdown[at:start], self._mark(markdown[start:end])]
                at = end
        return "".join(out) + markdown[at:]

    def whole(self, html: str) -> str:
        """Return the page with all blocks restored."""
        return MARK.sub(lambda m: self._parts[int(m[1])], html)

    def _mark(self, part: str) -> str:
        self._parts.append(part)
        return f"<!--around {len(self._parts) - 1}-->"


def _end(text: str, start: int, name: str) -> int:
    """Return the end of the element that begins at `start`; 0 if it has none."""
    depth = 0
    for tag in re.compile(rf"<(/?){name}\b[^>]*>").finditer(text, start):
        depth += -1 if tag[1] else 1
        if not depth:
            return tag.end()
    return 0
