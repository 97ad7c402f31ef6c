"""The schema of `site/search.yaml`: the words that the site's search leaves out, and words with one meaning."""

from __future__ import annotations

from pathlib import Path

from ..files.documents import load_yaml
from .base import Entry, Stem, validated

__all__ = ["SearchWords", "load_search_words"]


class SearchWords(Entry):
    """The words of the search."""

    stop: list[Stem]
    """Words that no query is about."""
    synonyms: list[list[Stem]]
    """Groups of words and phrases. A query for one of a group also finds the others."""


def load_search_words(path: Path, name: str) -> SearchWords:
    """Read the words. Raises DataError with every problem of the file."""
    return validated(SearchWords, load_yaml(path, name))
