"""The schema of `site/settings.yaml`: the examples that the site's pages show."""

from __future__ import annotations

from pathlib import Path

from ..files.documents import load_yaml
from .base import Citation, Entry, Id, Name, Role, Stem, Value, validated

__all__ = ["Settings", "load_settings"]


class Query(Entry):
    """The example query on the first page."""

    method: Id
    model: Id
    set: dict[Name, Value] = {}
    targets: list[Role] = []


class ExampleSurvey(Entry):
    """The survey whose tree the taxonomy follows, and the methods and models of its experiments."""

    source: Citation
    methods: list[Id] = []
    models: dict[Id, Stem] = {}
    """The task of each model."""


class Comparison(Entry):
    """The first content of the comparison."""

    model: Id
    methods: list[Id] = []


class Guided(Entry):
    """The first content of the guided choice."""

    model: Id


class Settings(Entry):
    """The examples. Names of methods or models that the knowledge base lacks are ignored."""

    examples: list[Id]
    query: Query
    survey: ExampleSurvey
    on_models: list[Id]
    compare: Comparison
    choose: Guided
    libraries: dict[Id, Stem] = {}


def load_settings(path: Path, name: str) -> Settings:
    """Read the settings. Raises DataError with every problem of the file."""
    return validated(Settings, load_yaml(path, name))
