"""Equations as `show` prints them."""

from __future__ import annotations

import re

import pytest

from peftonomy import KnowledgeBase
from peftonomy.cli.equation import SILENT, equation

from .cli_kit import Run

LAYOUT = ("quad", "text", "mathrm", "begin", "end", "lim")
EXAMPLES = {
    r"h = W_0 x + \frac{\alpha}{r + 1} B A x": "h = W₀ x + α/(r + 1) B A x",
    r"\tfrac1N \sum_{i=1}^{n} W_{0,i}^{(t+1)}": "1/N ∑ᵢ₌₁ⁿ W_(0,i)⁽ᵗ⁺¹⁾",
    r"A \in \mathbb{R}^{r/k \times d_{in}}, \; \mathbb{1}[x]": "A ∈ ℝ^(r/k × dᵢₙ), 𝟙[x]",
    r"h \leftarrow h + \bigl(U\,\sigma(D_{down} h)\bigr)^{\top}": "h ← h + (U σ(D_down h))ᵀ",
    r"\arg\min_s \|x\|^2 \bmod \sqrt[4]{d}": "arg minₛ‖x‖² mod ⁴√d",
    r"\frac{a}{b": r"\frac{a}{b",
    r"x^": "x^",
    r"a, \qquad b \quad \text{if } c": "a,\nb  if c",
}


@pytest.mark.parametrize("tex", EXAMPLES)
def test_an_equation_in_unicode(tex: str) -> None:
    assert equation(tex) == EXAMPLES[tex]


def test_no_symbol_of_an_entry_is_lost(kb: KnowledgeBase) -> None:
    """Each command of the source changes the text if it is left out, and no source is left in the text."""
    for method in kb.values():
        tex = method.entry.update
        text = equation(tex)
        assert not re.search(r"\\\|\b(frac|bigl|operatorname)\b", text), method.id
        words = set(re.findall(r"\\([A-Za-z]+)", tex)) - {*SILENT, *LAYOUT}
        for word in words:
            assert equation(re.sub(rf"\\{word}(?![A-Za-z])", "", tex)) != text, (method.id, word)


def test_show_prints_it(run: Run) -> None:
    assert "\nh = W₀ x + α/r B A x,\nA ∈ ℝ^(r × dᵢₙ), B ∈ ℝ^(dₒᵤₜ × r)\n" in run("show lora").out
