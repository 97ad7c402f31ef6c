"""The vocabulary of entries: categories, facets, relations, roles, rule examples, saved queries and surveys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, RootModel

from ..files.documents import load_yaml
from .base import Category, Citation, Entry, Id, Line, Prose, Stem, validated
from .family import load_roles

__all__ = ["CategoryNode", "Facet", "RelationType", "Taxonomy", "joined"]


def joined(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


class CategoryNode(Entry):
    """A node of the category tree; its id is the path from the root."""

    id: Category
    name: Stem
    definition: Line
    source: Citation
    methods: list[Id] = Field(default=[])
    """The methods that the source files here. We filed the other methods of the category."""
    children: list[CategoryNode] = Field(default=[])

    def walk(self) -> Iterator[CategoryNode]:
        """Yield the node and its descendants, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


class FacetValue(Entry):
    """One value of a facet."""

    meaning: Line


class Facet(Entry):
    """A property of every method, with a few possible values."""

    name: Stem
    meaning: Line
    values: dict[Id, FacetValue | Line]
    multiple: bool = False
    """True if a method may have several of the values."""
    phrase: Line = "{}"
    """The end of a sentence that starts with a method's name. `{}` stands for the phrases of the method's values."""
    phrases: dict[Id, Line] = {}
    """A phrase for each value; the value itself, where there is none."""
    weight: float = Field(default=1, ge=0, le=10)
    """How much the facet counts in the likeness of two methods."""

    def said(self, values: Sequence[str]) -> str:
        """Return the end of a sentence about a method with these values: `acts on weight matrices and biases`."""
        return self.phrase.replace("{}", joined([self.phrases.get(v, v.replace("_", " ")) for v in values]))

    def meanings(self) -> dict[str, str]:
        """Return the one-sentence meaning of each value."""
        return {n: v if isinstance(v, str) else v.meaning for n, v in self.values.items()}


class RelationType(Entry):
    """A kind of link between methods."""

    name: Stem
    inverse: Stem
    meaning: Line
    lineage: bool
    """True if the target is an ancestor."""
    acyclic: bool


class Wish(Entry):
    """A saved query as a requirement that a user may have."""

    name: Stem
    """The requirement: `merges into the weights`."""
    unmet: Line
    """Said of a method that does not meet it: `does not merge into the weights`."""


class StoredList(Entry):
    """A saved query: the methods for which a condition holds."""

    name: Stem
    meaning: Line
    where: Line
    model: Id | None = None
    """The model for the ledgers that the condition names."""
    wish: Wish | None = None
    """How the guided choice offers the condition; it does not offer a list without this."""


class SurveyNode(Entry):
    """A class in another survey's tree, with the methods that the survey files there."""

    id: Id
    name: Stem
    like: Category | None = None
    """Our top category that corresponds to it; none if it cuts across them."""
    maps_to: list[Category] = Field(default=[])
    """Our categories that the class covers."""
    methods: list[Id] = Field(default=[])
    children: list[SurveyNode] = Field(default=[])

    def walk(self, above: tuple[SurveyNode, ...] = ()) -> Iterator[tuple[SurveyNode, ...]]:
        """Yield the node and its descendants, each as the path that leads to it."""
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
        """Return the paths under which the survey files a method; empty if it does not include the method."""
        return [path for root in self.tree for path in root.walk() if method in path[-1].methods]


class RuleExample(Entry):
    """Fields of an entry, as YAML text, that pass a rule and that violate it."""

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
    derived: dict[Id, Facet] = {}
    """Properties that follow from an entry. `knowledge.mechanism` computes their values."""


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
    """Everything in `taxonomy/` except the bibliography and the libraries."""

    tree: list[CategoryNode]
    facets: dict[str, Facet]
    derived: dict[str, Facet]
    """Properties like facets that `knowledge.mechanism` computes from an entry."""
    relations: dict[str, RelationType]
    roles: dict[str, str]
    rule_examples: dict[str, RuleExample]
    lists: dict[str, StoredList]
    surveys: dict[str, Survey]

    @classmethod
    def read(cls, folder: Path, shown: Callable[[Path], str]) -> Taxonomy:
        """Read the taxonomy in a folder. Raises DataError with the problems of the first file that has any."""

        def file(name: str) -> tuple[Path, str]:
            return folder / name, shown(folder / name)

        facets = validated(FacetFile, load_yaml(*file("facets.yaml")))
        return cls(
            validated(CategoryFile, load_yaml(*file("categories.yaml"))).categories,
            facets.facets,
            facets.derived,
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
