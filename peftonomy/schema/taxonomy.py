"""The words that entries use: categories, facets, relation types, module roles, and methods still to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, RootModel

from ..files.documents import load_yaml
from .family import load_roles
from .method import Category, Citation, Entry, Id, Line, Prose, Stem, validated

__all__ = ["CategoryNode", "Facet", "RelationType", "Taxonomy"]


class CategoryNode(Entry):
    """A node of the category tree; its id is the path from the root."""

    id: Category
    name: Stem
    definition: Line
    source: Citation
    methods: list[Id] = Field(default=[])
    """Those that its source has there; other methods of the category were filed by us."""
    children: list[CategoryNode] = Field(default=[])

    def walk(self) -> Iterator[CategoryNode]:
        """The node and everything below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


class FacetValue(Entry):
    """One value of a facet."""

    meaning: Line


class Facet(Entry):
    """A question that every method answers with one of a few words."""

    name: Stem
    meaning: Line
    values: dict[Id, FacetValue | Line]
    multiple: bool = False
    """Whether a method may have several of the values."""

    def meanings(self) -> dict[str, str]:
        """Each value with its one-sentence meaning."""
        return {n: v if isinstance(v, str) else v.meaning for n, v in self.values.items()}


class RelationType(Entry):
    """A kind of link between methods."""

    name: Stem
    inverse: Stem
    meaning: Line
    lineage: bool
    """Whether the target counts as an ancestor."""
    acyclic: bool


class StoredList(Entry):
    """A question with a name: the methods for which a condition holds."""

    name: Stem
    meaning: Line
    where: Line
    model: Id | None = None
    """On which the ledgers that the condition names are counted."""


class SurveyNode(Entry):
    """A class in another survey's tree, and those of our methods that the survey files there."""

    id: Id
    name: Stem
    like: Category | None = None
    """The one of our top categories that it is the counterpart of; none where it cuts across them."""
    maps_to: list[Category] = Field(default=[])
    """Our categories that it covers."""
    methods: list[Id] = Field(default=[])
    children: list[SurveyNode] = Field(default=[])

    def walk(self, above: tuple[SurveyNode, ...] = ()) -> Iterator[tuple[SurveyNode, ...]]:
        """Every node below and itself, each as the path that leads to it."""
        path = (*above, self)
        yield path
        for child in self.children:
            yield from child.walk(path)


class Survey(Entry):
    """Another survey's tree."""

    name: Stem
    source: Citation
    note: Line | None = None
    tree: list[SurveyNode]

    def filed(self, method: str) -> list[tuple[SurveyNode, ...]]:
        """The paths under which it files a method: none if it does not have it."""
        return [path for root in self.tree for path in root.walk() if method in path[-1].methods]


class RuleExample(Entry):
    """Fields of an entry, as YAML text, that pass a rule and that fail it."""

    good: Prose
    bad: Prose


class RuleFile(RootModel[dict[str, RuleExample]]):
    """taxonomy/rules.yaml"""


class CategoryFile(Entry):
    """taxonomy/categories.yaml"""

    categories: list[CategoryNode]


class FacetFile(Entry):
    """taxonomy/facets.yaml"""

    facets: dict[Id, Facet]


class RelationFile(Entry):
    """taxonomy/relations.yaml"""

    relations: dict[Id, RelationType]


class ListFile(Entry):
    """taxonomy/lists.yaml"""

    lists: dict[Id, StoredList]


class SurveyFile(Entry):
    """taxonomy/surveys.yaml"""

    surveys: dict[Id, Survey]


@dataclass(frozen=True)
class Taxonomy:
    """Everything in `taxonomy/` but the bibliography."""

    tree: list[CategoryNode]
    facets: dict[str, Facet]
    relations: dict[str, RelationType]
    roles: dict[str, str]
    rule_examples: dict[str, RuleExample]
    lists: dict[str, StoredList]
    surveys: dict[str, Survey]

    @classmethod
    def read(cls, folder: Path, shown: Callable[[Path], str]) -> Taxonomy:
        """The taxonomy in a folder. Raises DataError with the problems of the first file that has any."""

        def file(name: str) -> tuple[Path, str]:
            return folder / name, shown(folder / name)

        return cls(
            validated(CategoryFile, load_yaml(*file("categories.yaml"))).categories,
            validated(FacetFile, load_yaml(*file("facets.yaml"))).facets,
            validated(RelationFile, load_yaml(*file("relations.yaml"))).relations,
            load_roles(*file("roles.yaml")),
            validated(RuleFile, load_yaml(*file("rules.yaml"))).root,
            validated(ListFile, load_yaml(*file("lists.yaml"))).lists,
            validated(SurveyFile, load_yaml(*file("surveys.yaml"))).surveys,
        )

    @property
    def categories(self) -> dict[str, CategoryNode]:
        """Every node of the tree by its id, parents first."""
        return {node.id: node for root in self.tree for node in root.walk()}
