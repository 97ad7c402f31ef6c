"""Convert TeX to HTML and MathML while the site is built.

KaTeX runs in an embedded V8, so pages carry no math script.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from markupsafe import Markup

from ..errors import DataError, Problem, UsageError
from ..knowledge.base import data_root

__all__ = ["Tex", "shared_tex"]

LONGEST = 2000
TWICE = re.compile(r"(?<=z\n)MM(?=\d)")
"""Matches a doubled command in the outline of KaTeX's tall ceilings and floors, which browsers report as an error."""


class Tex:
    """A renderer of formulas with the vendored KaTeX; it renders each distinct formula once."""

    def __init__(self, katex: Path):
        try:
            from py_mini_racer import MiniRacer
        except ImportError:
            raise UsageError("the site needs its extra: pip install 'peftonomy[site]'") from None
        self._engine = MiniRacer()
        weakref.finalize(self, self._engine.close)  # without this it can hang when Python exits
        self._engine.eval(katex.read_text(encoding="utf-8"))
        self._engine.eval(
            "function render(tex, displayMode, marked) {"
            "  const trust = marked ? context => context.command === '\\\\htmlData' : false;"
            "  return katex.renderToString(tex, {displayMode, strict: 'ignore', maxSize: 20, maxExpand: 500, trust}); }"
        )
        self._engine.eval(
            "function refusals(formulas) { return formulas.map(tex => {"
            "  try { katex.__parse(tex, {displayMode: true, strict: 'ignore', maxExpand: 500}); return ''; }"
            "  catch (error) { return String(error.message); } }); }"
        )
        self._done: dict[tuple[str, bool, bool], Markup] = {}

    def __call__(
        self, tex: str, *, display: bool = False, file: str = "", field: str = "update", marked: str = ""
    ) -> Markup:
        """Return HTML with MathML inside. Raises DataError with the entry's file if KaTeX rejects the formula.

        marked: the same formula with `\\htmlData` of ours around symbols, which is rendered in its place.
        """
        key = (marked or tex, display, bool(marked))
        if key not in self._done:
            self._done[key] = self._render(tex, display, file, field, marked)
        return self._done[key]

    def refusals(self, formulas: Sequence[str]) -> list[str]:
        """Return KaTeX's reason for each formula that it rejects, and "" for the others. Nothing is rendered."""
        short = [tex if len(tex) <= LONGEST else "" for tex in formulas]
        found: list[str] = list(self._engine.call("refusals", short))
        return [
            reason.removeprefix("KaTeX parse error: ") if len(tex) <= LONGEST else f"it has over {LONGEST:,} characters"
            for tex, reason in zip(formulas, found, strict=True)
        ]

    def _render(self, tex: str, display: bool, file: str, field: str, marked: str) -> Markup:
        from py_mini_racer import JSEvalException

        if len(tex) > LONGEST:
            raise DataError([Problem(file, 0, field, f"{len(tex):,} characters", f"at most {LONGEST:,}", rule="tex")])
        try:
            html = str(self._engine.call("render", marked or tex, display, bool(marked)))
        except JSEvalException as error:
            if marked:
                self._render(tex, display, file, field, "")  # an error in it has its own position
            reason = next((line for line in str(error).splitlines() if "ParseError" in line), "KaTeX refuses it")
            reason = reason.split("ParseError: ")[-1]
            raise DataError([Problem(file, 0, field, tex, "a formula KaTeX can set", reason, rule="tex")]) from None
        return Markup(TWICE.sub("M", html))


@cache
def shared_tex() -> Tex:
    """Return the renderer of formulas. Raises UsageError without the `site` extra."""
    return Tex(data_root() / "site" / "vendor" / "katex" / "katex.min.js")
