"""The declared initial values of every entry, by running; and no other word of the language would do in their place."""

from __future__ import annotations

import functools

import pytest

from peftonomy import UsageError
from peftonomy.conformance.initial import Draws, differing, draws
from peftonomy.conformance.trial import KB, Trial, trials
from peftonomy.schema.initial import PROSE, WORDS, Start

pytestmark = pytest.mark.torch
FAMILIES = ("bert", "llama", "t5", "vit", "clip")
ARGUMENTS = {
    "constant": "(0.37)", "normal": "(0.13)", "truncated_normal": "(0.3, 0.5)", "uniform": "(0.47)", "signs": "(0.7)",
    "integers": "(2, 9)",
}  # fmt: skip
"""Numbers for the words that need some; no entry declares these."""
OTHERS = [f"{word}{ARGUMENTS.get(word, '')}" for word in WORDS] + [f"{word}: something else" for word in PROSE]


@functools.cache
def cases(method: str) -> list[Trial]:
    for family in FAMILIES:
        try:
            return trials(method, family)
        except UsageError:
            continue
    raise AssertionError(f"{method} acts on none of {', '.join(FAMILIES)}")


@functools.cache
def drawn(method: str, number: int) -> dict[str, Draws]:
    return draws(cases(method)[number])


@pytest.mark.parametrize("method", KB.methods)
def test_every_tensor_starts_as_declared(method: str) -> None:
    for number in range(len(cases(method))):
        found = drawn(method, number)
        problems = {tensor: problem for tensor, held in found.items() for problem in differing(held, held.start)}
        assert problems == {}, cases(method)[number].hyperparameters


@pytest.mark.parametrize("method", KB.methods)
def test_another_start_is_noticed(method: str) -> None:
    """Every declared start, exchanged for each other word of the language, is a problem."""
    for tensor in drawn(method, 0):
        for text in OTHERS:
            other = Start.parse(text)
            tried = [found[tensor] for n in range(len(cases(method))) if tensor in (found := drawn(method, n))]
            if not all(same(held, other) or not list(differing(held, other)) for held in tried) or not tried:
                continue
            assert all(same(held, other) for held in tried), f"{tensor}: {text} would pass in place of {tried[0].start}"


def same(held: Draws, other: Start) -> bool:
    """Whether two starts are one where these draws are."""
    return all(held.start.at(place.known) == other.at(place.known) for place, _ in held.places)
