"""JSON Schemas of the API: records that describe its files, from which the schemas are generated.

Fields may be added within version 1, so the schemas allow additional fields. The tests disallow them, so that a written
but undescribed field fails.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..catalogue.records import Merge
from ..schema.combinations import Combinations
from ..schema.described import Described
from ..schema.engines import Works
from ..schema.evidence import Run, Study
from ..schema.method import MethodEntry
from ..schema.results import Result, Results
from ..schema.tensors import Properties

__all__ = ["SCHEMAS", "schema"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Value = bool | int | float | str


class Record(Described):
    """A part of a response. Its docstrings are the descriptions in the schema."""


class Answer(Record):
    """A complete file."""

    schema_version: str = Field(pattern=r"^1\.\d+$")
    """The version of the API. The first number changes when a field changes its meaning or is removed."""


# Costs and methods


class TensorCost(Record):
    """One declared tensor at all locations where it has the same shape."""

    name: str
    per: str
    """The scope: `site`, `role`, `layer` and so on."""
    shape: list[int] | None
    count: int
    """The number of entries of one such tensor."""
    sites: int
    """The number of these tensors."""
    total: int
    """`count` times `sites`."""
    trained: int
    stored: int
    stored_bits: int
    shared: int
    served: int
    served_bits: int
    roles: list[str]


class Cost(Record):
    """The counts of a method on a model: three ledgers, with the tensors from which they are derived."""

    method: str
    model: str
    hyperparameters: dict[str, Value]
    targets: list[str]
    """The roles of the targeted modules."""
    target_modules: list[str] | str | None
    """The targeted modules by name, if they were selected by name."""
    task: str
    dtype: str
    trained: int
    """Entries that the optimiser updates, without a new task head."""
    stored: int
    """Values and positions that one task's checkpoint must contain."""
    stored_bits: int
    """Mask bits in the checkpoint, beside `stored`."""
    stored_bytes: int
    """The size of `stored` and `stored_bits` in bytes, with values in `dtype`."""
    shared: int
    """Values stored once for all tasks."""
    served: int
    """Values that remain at inference beyond the backbone."""
    served_bits: int
    head: int
    """Parameters of a newly initialised task head, which no ledger includes."""
    backbone: int
    """Parameters of the published model, tied weights once."""
    base_bytes: int
    """Bytes of the frozen model in the method's storage format."""
    percent: float
    """`trained` in percent of `backbone`."""
    tensors: list[TensorCost]


class Related(Record):
    """A relation of the method, in the direction from the method."""

    type: str
    name: str
    """The relation in words, in this direction."""
    method: str
    note: str
    source: str


class FactLevel(Record):
    """One fact of an entry, with its level of evidence."""

    field: str
    """The dotted path of the field in the entry."""
    level: Literal["run", "read", "second_hand", "unread"]
    by: str
    """The evidence: a source, a recording of the authors' code, or a library."""


class EvidenceTally(Record):
    """The evidence for the facts of an entry."""

    counts: dict[str, int]
    """The number of facts of each level."""
    facts: list[FactLevel]


class PropertiesRecord(Properties):
    """Properties of the adapted model, including those derived from the tensors."""

    merge: Merge
    """`exact` if the change can be merged into the weights, else `none`."""


class EntryRecord(MethodEntry):
    """One PEFT method as in `methods/<id>.yaml`, with values derived from its tensors."""

    properties: PropertiesRecord


class RateRecord(Record):
    """The learning rates of one source."""

    values: list[float]
    by: Literal["authors", "library", "others", "published", "ours"]
    """Who used them. `published` and `ours` are derived from runs."""
    model: str
    task: str
    note: str
    source: str


class ToldResult(Result):
    """A finished arm with its study."""

    study: str
    metric: str
    groups: int
    """The number of groups among the finished arms of the study."""
    command: str | None
    """The command that trains the arm again; null for a control, which runs with the whole study."""


class MethodRecord(EntryRecord):
    """An entry with values derived from it and from other entries."""

    evidence: EvidenceTally
    measured: list[Run]
    """Published training runs of the method. `evidence.json` describes their studies."""
    known_rates: list[RateRecord]
    """The entry's learning rates, with those of published runs and of our own studies."""
    results: list[ToldResult]
    """The method's arms in our own studies. `results.json` describes them."""
    """The evidence for each fact of the entry."""
    related: list[Related]
    """Relations in both directions, including those that other entries declare."""
    costs: list[Cost]
    """The costs at the default setting on the example models."""


class MethodAnswer(Answer):
    """methods/<id>.json"""

    method: MethodRecord


class AllAnswer(Answer):
    """all.json"""

    methods: list[MethodRecord]
    """The same records as in the files of the methods."""


# Models


class Slice(Record):
    """Rows of a fused module with their own role."""

    role: str
    start: int
    stop: int


class Module(Record):
    """A module, or the same module in several layers."""

    path: str
    """The name of the module; `{layer}` stands for each of `layers`."""
    role: str
    stack: str
    layers: list[int]
    kind: str
    parameters: dict[str, list[int]]
    """Suffix to shape; empty if the module is tied to another one."""
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
    """The fields of its config.json that affect the counts."""
    dims: dict[str, int]
    parameters: int
    """The number of parameters, tied weights once."""
    default_task: str
    tasks: list[str]
    modules: list[Module]


class ModelAnswer(Answer):
    """models/<id>.json"""

    model: Model


# The taxonomy


class Category(Record):
    """A node of the tree; its id is the path from the root."""

    id: str
    name: str
    definition: str
    source: str
    methods: list[str]
    """The ids of the methods in exactly this category."""
    children: list[Category]


class CategoryAnswer(Answer):
    """categories.json"""

    categories: list[Category]


class FacetValue(Record):
    """A value with its meaning."""

    meaning: str


class Facet(Record):
    """A property of every method."""

    name: str
    meaning: str
    values: dict[str, FacetValue | str]
    """Each value with its meaning."""
    multiple: bool
    phrase: str
    """The end of a sentence that starts with a method's name. `{}` stands for the phrases of the method's values."""
    phrases: dict[str, str]
    weight: float
    """How much the facet counts in the likeness of two methods."""


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
    derived: dict[str, Facet]
    """Properties of the same form that follow from an entry."""
    relations: dict[str, RelationType]
    roles: dict[str, str]


class Requirement(Record):
    """A saved query as a requirement that a user may have: its name, and what is said of a method that lacks it."""

    name: str
    unmet: str


class StoredList(Record):
    """A saved query and its result."""

    id: str
    name: str
    meaning: str
    where: str
    """The condition, in the language of `peftonomy methods --where PREDICATE`."""
    model: str | None
    """The model for costs in the condition."""
    wish: Requirement | None
    """The condition as the guided choice offers it; null if it does not."""
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
    """A link from the younger to the older node, or from a part to its whole."""

    source: str
    target: str
    type: str
    note: str | None = None


class GraphAnswer(Answer):
    """graph.json"""

    nodes: list[Node]
    edges: list[Edge]


# Surveys and sources


class SurveyClass(Record):
    """A class of another survey's tree."""

    id: str
    name: str
    like: str | None
    """Our category that corresponds to it."""
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
    """A class of a survey that contains the method."""

    survey: str
    path: list[str]
    """The names of the classes from the root."""
    class_: list[str] = Field(alias="class")
    """The ids of the classes."""
    like: str | None
    stands: Literal["agrees", "differs", "other axis"]


class Filed(Record):
    """A method with its classes in other surveys."""

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
    """The quantity by our count; null if it cannot be recomputed."""
    method_alone: int | float | None
    """The method's trained entries, without a head or other parts."""
    difference: int | float | None
    agreement: str | None


class ExperimentsAnswer(Answer):
    """experiments.json"""

    survey: str
    experiments: list[Experiment]


class Ability(Record):
    """The support for a kind of base model, or for a way to shard it."""

    works: Literal["full", "partial", "none"]
    note: str
    source: str


class SupportKey(Record):
    """A hyperparameter of ours in a library or a trainer."""

    key: str
    type: str | None
    default: Any
    note: str | None


class Supported(Record):
    """A method in a library or a trainer."""

    method: str
    in_: str = Field(alias="in")
    """The id of the library or trainer."""
    kind: Literal["library", "trainer"]
    version: str
    """The version that we read."""
    name: str
    """Its name there: a class, or the keys that select it."""
    since: str | None
    """The first release with it; null if unknown."""
    commit: str | None
    """The commit that added it."""
    set: dict[str, Any]
    """The arguments that select the method."""
    scale: str | None
    """The factor of the correction, by our hyperparameters."""
    note: str | None
    fails: str | None
    """The reason why this version names the method and fails with it."""
    keys: dict[str, SupportKey]
    """Our hyperparameters with the names there."""
    source: str | None
    base: dict[Literal["quantised", "moe", "fsdp", "deepspeed"], Ability | None]
    """The support for kinds of base models; null if unknown."""


class SupportAnswer(Answer):
    """support.json"""

    support: list[Supported]


class Trait(Record):
    """A property of a method at serving, with the reason."""

    holds: bool
    why: str


class Requantised(Record):
    """Whether a merge into quantised weights is exact."""

    holds: Literal["all", "rows", "partly", "none"]
    """`all`: no quantised weight changes. `rows`: factors of rows go into the scales. `partly`: only some tensors."""
    why: str


class EarlierAnswer(Record):
    """The answer of another version of an engine."""

    version: str
    works: Works
    note: str
    source: str


class EngineAnswer(Record):
    """Whether an engine takes a method's saved adapter."""

    works: Works
    """`taken`; `converted`: after a conversion to LoRA; `refused`: an error; `wrong`: no error, but another function;
    `unknown`: not read."""
    note: str
    source: str | None
    earlier: list[EarlierAnswer]
    derived: bool
    """True if the answer follows from the method's configuration in a library."""


class Served(Record):
    """A method at serving."""

    method: str
    mergeable: Trait
    swappable: Trait
    batched: Trait
    """Whether one batch can mix inputs of several tasks."""
    requantised: Requantised
    engines: dict[str, EngineAnswer]


class ServingAnswer(Answer):
    """serving.json"""

    serving: list[Served]


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


# The index


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
    """A saved query in short."""

    id: str
    name: str
    href: str


class IndexAnswer(Answer):
    """index.json"""

    methods: list[MethodHead]
    models: list[ModelHead]
    lists: list[ListHead]
    files: dict[str, str]
    """Every file of the API with its content; `<id>` stands for each of many."""


class DeviationRow(Record):
    """A difference between a library and a method."""

    method: str
    library: str
    against: Literal["reference", "paper"]
    """The standard of comparison: the reference implementation or the paper."""
    about: str
    """The subject of the difference."""
    effect: Literal["counts", "outputs", "none"]
    """The effect on the trained model."""
    note: str
    source: str


class DeviationsAnswer(Answer):
    """deviations.json"""

    deviations: list[DeviationRow]


class EvidenceAnswer(Answer):
    """evidence.json"""

    studies: dict[str, Study]
    """The published comparisons by id."""
    runs: list[Run]


class ToldResults(Results):
    """One of our own studies."""

    arms: int
    """The arms that can run, finished or not, with the controls."""
    results: list[ToldResult]  # type: ignore[assignment]


class ResultsAnswer(Answer):
    """results.json"""

    studies: dict[str, ToldResults]
    """Our own studies by name."""


class CombinationsAnswer(Answer):
    """combinations.json"""

    combinations: Combinations | None
    """The content of taxonomy/combinations.yaml; null without that file."""


SCHEMAS: dict[str, tuple[type[Described], str]] = {
    "index": (IndexAnswer, "index.json"),
    "all": (AllAnswer, "all.json"),
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
    "support": (SupportAnswer, "support.json"),
    "combinations": (CombinationsAnswer, "combinations.json"),
    "serving": (ServingAnswer, "serving.json"),
    "evidence": (EvidenceAnswer, "evidence.json"),
    "results": (ResultsAnswer, "results.json"),
    "references": (ReferencesAnswer, "references.json"),
}
"""Kind -> its record, and the file that it describes. An entry and a cost are parts of files."""


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one kind."""
    return {"$schema": DRAFT, **SCHEMAS[kind][0].model_json_schema()}
