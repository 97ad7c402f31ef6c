"""Print an equation in TeX as Unicode text.

    >>> print(equation(r"h = W_0 x + \\frac{\\alpha}{r} B A x, \\qquad A \\in \\mathbb{R}^{r \\times d_{in}}"))
    h = W₀ x + α/r B A x,
    A ∈ ℝ^(r × dᵢₙ)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

__all__ = ["equation"]

BELOW = dict(zip("0123456789+-=()aehijklmnoprstuvxβγρ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨ", strict=True))
ABOVE = dict(
    zip("0123456789+-=()⊤abcdefghijklmnoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵀᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True)
)
SILENT = (
    "bigl", "bigr", "Bigl", "Bigr", "big", "Big", "left", "right", "textstyle", "displaystyle", "mathrel", "!", ".",
)  # fmt: skip
"""Macros that only set sizes and spaces."""
SIGNS = {
    "|": "‖", "bmod": " mod ", "mid": " | ", ",": " ", ";": " ", ":": " ", " ": " ", "quad": "\u2003", "qquad": "\n",
}  # fmt: skip
SIMPLE = re.compile(r"[^\W_]*|\*|\([^()]*\)")
"""An index or a power that needs no parentheses."""
OPERAND = re.compile(r"√?[\w⁺⁻⁽⁾₊₋₍₎\u0300-\u036f]+|√\([^()]*\)|\|\w+\|")
"""One side of a fraction that needs none."""
SPACED = "←∈∉∼≤≥≈↦⊙⊗×⇒"
SPACES = {
    rf" *([{SPACED}]) *": r" \1 ", r"(?<=[^\s(\[‖])∑": " ∑", r" +": " ", r"([(\[]) ": r"\1", r" ([,)\]])": r"\1",
    "(?<=ᵀ)(?=[-+=])": " ", " ?\u2003 ?": "  ",
}
"""What is done to spaces, in this order; TeX sets its own."""


def equation(tex: str) -> str:
    """Return an equation as Unicode text, in a line for each part that the TeX source sets apart.

    A text that is not TeX is returned unchanged.
    """
    from pylatexenc.latexwalker import LatexWalkerError

    try:
        text = _converter()(tex.replace(r"\mathbb{1}", "𝟙"))
    except (LatexWalkerError, RecursionError):
        return tex
    for pattern, spaced in SPACES.items():
        text = re.sub(pattern, spaced, text)
    return "\n".join(line.strip() for line in text.split("\n"))


def _script(mark: str, letters: Mapping[str, str]) -> Callable[[str], str]:
    """Return the function that writes an index or a power: with its own characters if there are such for all of it."""

    def written(text: str) -> str:
        plain = text.replace("−", "-").strip()
        tight = plain.replace(" ", "")
        if tight and all(c in letters for c in tight):
            return "".join(letters[c] for c in tight)
        return mark + (plain if SIMPLE.fullmatch(plain) else f"({plain})")

    return written


def _operand(text: str) -> str:
    """Return one side of a fraction, in parentheses unless it is one name or number."""
    text = text.strip()
    return text if OPERAND.fullmatch(text) else f"({text})"


@cache
def _converter() -> Callable[[str], str]:
    from pylatexenc import latex2text, latexwalker, macrospec

    index, power = _script("_", BELOW), _script("^", ABOVE)

    def arguments(node: Any, l2t: Any) -> list[str]:
        if node.nodeargd is None:  # an index of nothing
            return [""]
        return [l2t.nodelist_to_text([one]) if one is not None else "" for one in node.nodeargd.argnlist]

    def fraction(node: Any, l2tobj: Any) -> str:
        above, below = arguments(node, l2tobj)
        return f"{_operand(above)}/{_operand(below)} "

    def root(node: Any, l2tobj: Any) -> str:
        degree, of = arguments(node, l2tobj)
        return f"{power(degree) if degree else ''}√{of if len(of) == 1 else f'({of})'}"

    def accent(mark: str) -> Callable[..., str]:
        def written(node: Any, l2tobj: Any) -> str:
            (of,) = arguments(node, l2tobj)
            return f"{of}{mark}"

        return written

    def unknown(node: Any) -> str:
        return f" {node.macroname} "

    macros = [(name, "{{", fraction) for name in ("frac", "tfrac", "dfrac")]
    macros += [("sqrt", "[{", root), ("widetilde", "{", accent("\u0303"))]
    macros += [("overrightarrow", "{", accent("→")), ("overleftarrow", "{", accent("←"))]
    read = latexwalker.get_default_latex_context_db()
    read.add_context_category(
        "equations",
        prepend=True,
        macros=[macrospec.std_macro(name, spec) for name, spec, _ in macros]
        + [macrospec.std_macro(name, "") for name in (*SILENT, *SIGNS)],
        specials=[
            macrospec.SpecialsSpec(mark, args_parser=macrospec.MacroStandardArgsParser("{")) for mark in "_^"
        ],
    )
    write = latex2text.get_default_latex_context_db()
    write.add_context_category(
        "equations",
        prepend=True,
        macros=[latex2text.MacroTextSpec(name, of) for name, _, of in macros]
        + [latex2text.MacroTextSpec(name, "") for name in SILENT]
        + [latex2text.MacroTextSpec(name, sign) for name, sign in SIGNS.items()],
        specials=[
            latex2text.SpecialsTextSpec("_", lambda node, l2tobj: index(*arguments(node, l2tobj))),
            latex2text.SpecialsTextSpec("^", lambda node, l2tobj: power(*arguments(node, l2tobj))),
        ],
    )
    write.set_unknown_macro_spec(latex2text.MacroTextSpec("", unknown))
    converter = latex2text.LatexNodes2Text(latex_context=write, math_mode="text", strict_latex_spaces="based-on-source")

    def convert(tex: str) -> str:
        nodes, *_ = latexwalker.LatexWalker(tex, latex_context=read, tolerant_parsing=False).get_latex_nodes()
        found: str = converter.nodelist_to_text(nodes)
        return found

    return convert
