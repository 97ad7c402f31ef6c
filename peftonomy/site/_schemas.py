"""JSON Schemas of the API: what each of its files holds, as records from which the schemas are generated.

Fields may be added within version 1, so the schemas allow more than they name; the tests close them, and so a field
that is written but not described here fails.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..catalogue.records import Merge
from ..schema.method import MethodEntry
from ..schema.tensors import Properties

__all__ = ["SCHEMAS", "schema"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Value = bool | int | float | str


class Record(BaseModel):
    """A part of an answer; its docstrings are the descriptions in the schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Answer(Record):
    """A whole file."""

    schema_version: str = Field(pattern=r"^1\.\d+$")
    """Version of the API; the first number changes when a field changes its meaning or goes away."""


# Costs and methods.


class TensorCost(Record):
    """One declared tensor at all the places where it has the same shape."""

    name: str
    per: str
    """The scope: one for each what."""
    shape: list[int] | None
    count: int
    """Entries of one such tensor."""
    sites: int
    """How many there are."""
    total: int
    """Count times sites."""
    trained: int
    stored: int
    stored_bits: int
    shared: int
    served: int
    served_bits: int
    roles: list[str]


class Cost(Record):
    """What a method costs on a model: three ledgers in numbers, with what they were derived from."""

    method: str
    model: str
    hyperparameters: dict[str, Value]
    targets: list[str]
    """Roles of the modules that the method acts on."""
    target_modules: list[str] | str | None
    """The modules by name, where they were chosen so."""
    task: str
    dtype: str
    trained: int
    """Numbers that the optimiser updates, a new task head excluded."""
    stored: int
    """Numbers that one task's checkpoint must hold."""
    stored_bits: int
    """Mask bits beside them."""
    stored_bytes: int
    """All of it in bytes, values in `dtype`."""
    shared: int
    """Numbers held once for all tasks."""
    served: int
    """Numbers that remain at inference beyond the backbone."""
    served_bits: int
    head: int
    """A newly initialised task head, in none of the ledgers."""
    backbone: int
    """Parameters of the published model, tied weights once."""
    base_bytes: int
    """The frozen model as the method holds it."""
    percent: float
    """Trained in percent of the backbone."""
    tensors: list[TensorCost]


class Related(Record):
    """A relation of the method, seen from its side."""

    type: str
    name: str
    """The relation in words, from this side."""
    method: str
    note: str
    source: str


class FactLevel(Record):
    """One fact of an entry, and how it is known."""

    field: str
    """Its place in the entry."""
    level: Literal["run", "read", "second_hand", "unread"]
    by: str
    """What it is known from: a source, a recording of the authors' code, a library."""


class EvidenceTally(Record):
    """How the facts of an entry are known."""

    counts: dict[str, int]
    """How many facts there are of each level."""
    facts: list[FactLevel]


class PropertiesRecord(Properties):
    """What holds of the adapted model, with what follows from the tensors."""

    merge: Merge
    """Whether the change can be folded into the weights."""


class EntryRecord(MethodEntry):
    """One PEFT method, as `methods/<id>.yaml` has it, and what follows from its tensors."""

    properties: PropertiesRecord


class MethodRecord(EntryRecord):
    """An entry with what is derived from it and from others."""

    evidence: EvidenceTally
    """How each fact of the entry is known."""
    related: list[Related]
    """Relations both ways, those that other entries declare included."""
    costs: list[Cost]
    """At the default setting on the example models."""


class MethodAnswer(Answer):
    """methods/<id>.json"""

    method: MethodRecord


# Models.


class Slice(Record):
    """Rows of a fused module that play a role of their own."""

    role: str
    start: int
    stop: int


class Module(Record):
    """A module, or the same one in several layers."""

    path: str
    """Its name; `{layer}` stands for each of `layers`."""
    role: str
    stack: str
    layers: list[int]
    kind: str
    parameters: dict[str, list[int]]
    """Suffix to shape; none where it is tied to another module."""
    slices: list[Slice]
    head: bool
    pretrained: bool


class Model(Record):
    """A model with its parameter inventory."""

    id: str
    name: str
    family: str
    kind: Literal["encoder", "decoder", "encoder_decoder"]
    source: str | None
    config: dict[str, Any]
    """The fields of its config.json that matter here."""
    dims: dict[str, int]
    parameters: int
    """Tied weights once."""
    default_task: str
    tasks: list[str]
    modules: list[Module]


class ModelAnswer(Answer):
    """models/<id>.json"""

    model: Model


# The taxonomy.


class Category(Record):
    """A node of the tree; its id is the path from the root."""

    id: str
    name: str
    definition: str
    source: str
    methods: list[str]
    """Ids of the methods in exactly this place."""
    children: list[Category]


class CategoryAnswer(Answer):
    """categories.json"""

    categories: list[Category]


class FacetValue(Record):
    """A value with its meaning."""

    meaning: str


class Facet(Record):
    """A question that every method answers."""

    name: str
    meaning: str
    values: dict[str, FacetValue | str]
    """Each value with its meaning."""
    multiple: bool


class RelationType(Record):
    """A kind of link between methods."""

    name: str
    inverse: str
    meaning: str
    lineage: bool
    acyclic: bool


class VocabularyAnswer(Answer):
    """vocabulary.json"""

    facets: dict[str, Facet]
    relations: dict[str, RelationType]
    roles: dict[str, str]


class StoredList(Record):
    """A question with a name, and its answer."""

    id: str
    name: str
    meaning: str
    where: str
    """The condition, in the language of `peftonomy methods --where PREDICATE`."""
    model: str | None
    """The model on which costs in the condition are meant."""
    methods: list[str]


class ListAnswer(Answer):
    """lists/<id>.json"""

    list: StoredList


class Node(Record):
    """A category, a method with or without an entry, or a paper."""

    id: str = Field(pattern="^(category|method|paper):")
    kind: Literal["category", "method", "paper"]
    label: str
    year: int | None = None


class Edge(Record):
    """From the younger to the older, from a part to its whole."""

    source: str
    target: str
    type: str
    note: str | None = None


class GraphAnswer(Answer):
    """graph.json"""

    nodes: list[Node]
    edges: list[Edge]


# Surveys and sources.


class SurveyClass(Record):
    """A class of another survey's tree."""

    id: str
    name: str
    like: str | None
    """The category here that it corresponds to."""
    maps_to: list[str]
    methods: list[str]
    children: list[SurveyClass]


class Survey(Record):
    """Another survey's tree."""

    id: str
    name: str
    source: str
    note: str | None
    tree: list[SurveyClass]


class Place(Record):
    """A class of a survey in which a method stands."""

    survey: str
    path: list[str]
    """Names of the classes from the root."""
    class_: list[str] = Field(alias="class")
    """Their ids."""
    like: str | None
    stands: Literal["agrees", "differs", "other axis"]


class Filed(Record):
    """A method with its places in other surveys."""

    method: str
    name: str
    year: int
    category: str
    entry: bool
    """Always true: every method that a survey files has an entry."""
    filed: list[Place]


class SurveysAnswer(Answer):
    """surveys.json"""

    surveys: list[Survey]
    filed: list[Filed]


class Part(Record):
    """One of the methods that a printed count adds up."""

    method: str
    times: int
    set: dict[str, Value]
    targets: list[str]


class Experiment(Record):
    """A printed count, recomputed."""

    method: str
    name: str
    claim: str
    model: str | None
    reported: str
    evidence: str
    quantity: int | float | str
    set: dict[str, Value]
    targets: list[str]
    target_modules: list[str] | str
    task: str | None
    num_labels: int | None
    parts: list[Part]
    head_counted: bool
    verdict: Literal["reproduced", "convention", "contradicted", "unverifiable"]
    note: str
    source: str
    computed: int | float | None
    """The quantity by our count; null where nobody can recompute it."""
    method_alone: int | float | None
    """The method's trained numbers, without a head or other parts."""
    difference: int | float | None
    agreement: str | None


class ExperimentsAnswer(Answer):
    """experiments.json"""

    survey: str
    experiments: list[Experiment]


class Reference(Record):
    """A source."""

    key: str
    title: str
    authors: list[str]
    year: str
    venue: str
    arxiv: str | None
    url: str | None
    read: str
    bibtex: str


class ReferencesAnswer(Answer):
    """references.json"""

    references: list[Reference]


# The index.


class MethodHead(Record):
    """A method in short."""

    id: str
    name: str
    full_name: str
    aliases: list[str]
    year: int
    category: str
    facets: dict[str, str | list[str]]
    summary: str
    href: str


class ModelHead(Record):
    """A model in short."""

    id: str
    name: str
    family: str
    parameters: int
    href: str


class ListHead(Record):
    """A stored list in short."""

    id: str
    name: str
    href: str


class IndexAnswer(Answer):
    """index.json"""

    methods: list[MethodHead]
    models: list[ModelHead]
    lists: list[ListHead]
    files: dict[str, str]
    """Every file of the API, with `<id>` where there are many, and what it holds."""


class DeviationRow(Record):
    """A difference between a library and a method."""

    method: str
    library: str
    against: Literal["reference", "paper"]
    """What the library is held against."""
    about: str
    """What the difference is about."""
    effect: Literal["counts", "outputs", "none"]
    """What it changes of the trained model."""
    note: str
    source: str


class DeviationsAnswer(Answer):
    """deviations.json"""

    deviations: list[DeviationRow]


SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    "index": (IndexAnswer, "index.json"),
    "method": (EntryRecord, ""),
    "method_file": (MethodAnswer, "methods/<id>.json"),
    "cost": (Cost, ""),
    "model": (ModelAnswer, "models/<id>.json"),
    "list": (ListAnswer, "lists/<id>.json"),
    "category": (CategoryAnswer, "categories.json"),
    "vocabulary": (VocabularyAnswer, "vocabulary.json"),
    "graph": (GraphAnswer, "graph.json"),
    "surveys": (SurveysAnswer, "surveys.json"),
    "experiments": (ExperimentsAnswer, "experiments.json"),
    "deviations": (DeviationsAnswer, "deviations.json"),
    "references": (ReferencesAnswer, "references.json"),
}
"""Kind -> its record, and the file that it describes; an entry and a cost are parts of files."""


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind."""
    return {"$schema": DRAFT, **SCHEMAS[kind][0].model_json_schema()}
