"""The schema of a method entry. The pydantic models below are its only definition.

JSON Schema for editors, the site's field table and the template of `peftonomy new` are generated from them. An entry
declares tensors; every count is derived from them (`costs`). The docstrings of the fields are their documentation.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from ..errors import DataError, FormulaError, Problem, near
from ..files.documents import Document, dotted
from ..formula import FUNCTIONS, Formula
from .initial import Start
from .names import LOCAL, MODEL_NAMES, OF_PARAMETERS, OF_STEP
from .programs import parse_all

__all__ = [
    "Act", "BaseStorage", "Claim", "ClaimPart", "ClosedForm", "Deviation", "Functions", "Hyperparameter",
    "Implementation", "Include", "Kept", "Memory", "MethodEntry", "Pitfall", "Properties", "Relation", "Share",
    "Stored", "Targets", "Tensor", "validated",
]  # fmt: skip


def _formula(value: Any) -> Formula:
    if isinstance(value, Formula):
        return value
    if not isinstance(value, str | int | float):
        raise ValueError("a formula in quotes, or a number, was expected")
    try:
        return Formula.parse(value)
    except FormulaError as error:
        raise ValueError(f"column {error.column}: {error.message}") from None


def _start(text: str) -> str:
    Start.parse(text)
    return text


FormulaField = Annotated[
    Formula,
    BeforeValidator(_formula),
    PlainSerializer(lambda f: f.source if f.literal is None else f.literal, when_used="json-unless-none"),
    WithJsonSchema({"type": ["string", "number"], "description": "a formula in quotes, or a number"}),
]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=60)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]
Argument = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*$", max_length=80)]
"""A library's argument. Dots name an argument inside another argument's value: `use_bdlora.nblocks`."""
Citation = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(#\S.*)?$", max_length=200)]
"""`bibkey`, `bibkey#locator`, or `editors` (our own judgement, shown as such)."""
Role = Annotated[str, Field(pattern=r"^([a-z_]+:)?[a-z_]+(\.[a-z_*]+)*$|^([a-z_]+:)?\*$", max_length=60)]
"""A role such as `attn.q`, or a pattern such as `mlp.*`. A stack may precede it: `decoder:xattn.v`."""
Prose = Annotated[str, Field(min_length=1, max_length=6000)]
Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\n]+$")]
Stem = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\n]+$")]
Category = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=120)]

Value = bool | int | float | str
Scope = Literal["site", "role", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
JS_RESERVED = frozenset(
    """abstract arguments boolean byte case catch char const debugger default delete do double enum eval export extends
    false final float function goto implements instanceof int interface let long native new null package private
    protected public short static super switch synchronized this throw throws transient true typeof var void volatile
    fdiv mod pow""".split()  # noqa: SIM905 (a list of words is read as words)
)
"""Names that a formula compiled to JavaScript cannot use."""


class Entry(BaseModel):
    """Base of all records: closed (an unknown field is an error), strict (no silent conversion) and frozen."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True,
        defer_build=True,  # a query reads few of the records, so the other validators are never built
    )  # fmt: skip


def _functions(texts: dict[str, str]) -> dict[str, str]:
    parse_all(texts)
    return texts


Functions = Annotated[dict[str, str], AfterValidator(_functions)]
"""Functions in the language of operations: the text of each by its head."""


class Hyperparameter(Entry):
    """A number or choice that the user sets and that formulas may use."""

    type: Literal["int", "float", "bool", "choice"]
    default: Value
    """The value used when the user gives none. For numbers it may be a formula in quotes over the model's
    dimensions."""
    meaning: Line
    source: Citation
    literal: Stem | None = None
    """The default as the cited file writes it, if it follows from another setting there: `reduction_factor 16`."""
    domain: FormulaField | None = None
    """A condition on the value, over this hyperparameter, the others and the model's dimensions."""
    values: list[Name] | None = None
    """The values of a choice."""
    symbol: Stem | None = None
    """The LaTeX symbol in the update rule, if it differs from the name."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "choice") != (self.values is not None):
            raise ValueError("`values` belongs to a choice, and a choice needs it")
        if self.values is not None and self.default not in self.values:
            raise ValueError(f"default {self.default!r} is not among the values {', '.join(self.values)}")
        kinds: dict[str, tuple[type, ...]] = {
            "int": (int, str),
            "float": (int, float, str),
            "bool": (bool,),
            "choice": (str,),
        }
        if not isinstance(self.default, kinds[self.type]) or (self.type != "bool" and isinstance(self.default, bool)):
            raise ValueError(f"default {self.default!r} is not of type {self.type}")
        if self.type in ("int", "float") and isinstance(self.default, str):
            _formula(self.default)
        return self


class Targets(Entry):
    """The linear modules that the method acts on, by role."""

    default: list[Role]
    """Roles targeted when the caller names none. Roles that a model lacks are skipped."""
    allowed: list[Role]
    """Roles or patterns that the method's mathematics allows."""
    source: Citation


class Stored(Entry):
    """The part of a tensor that one task's checkpoint must contain."""

    as_: Literal["values", "indices", "bits", "shared", "seed", "none"] = Field(alias="as")
    """`values`, `indices` (positions) and `bits` are in each task's checkpoint. `shared` is stored once for all tasks.
    `seed`: a seed regenerates the tensor. `none`: the tensor is discarded, or computed from stored values."""
    count: FormulaField | None = None
    """The number of stored entries at each location, if not all entries."""
    across: FormulaField | None = None
    """The number of stored entries over all locations together. `numel` is the summed size of these locations."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        given = [n for n in ("count", "across") if getattr(self, n) is not None]
        if len(given) > (self.as_ not in ("none", "seed")):
            raise ValueError(f"stored as {self.as_} with {' and '.join(given)}")
        return self


class Moved(Entry):
    """The number of entries that the optimiser updates, over all locations together."""

    across: FormulaField


PLACE_NAMES = MODEL_NAMES.union(*LOCAL.values(), OF_STEP)


@cache
def _decided(condition: Formula | None) -> tuple[Formula | None, Formula | None]:
    """Split a condition into the part over hyperparameters only and the part that depends on the location."""
    parts = [] if condition is None else condition.conjuncts()
    placed = [part for part in parts if part.names & PLACE_NAMES]
    return _joined([part for part in parts if part not in placed]), _joined(placed)


def _joined(parts: Sequence[Formula]) -> Formula | None:
    sources = [part.source for part in parts]
    if len(sources) < 2:
        return Formula.parse(sources[0]) if sources else None
    return Formula.parse(" and ".join(f"({source})" for source in sources))


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return [{"as": value}]
    return [value] if isinstance(value, dict) else value


class Tensor(Entry):
    """A tensor that the method adds or selects from the backbone, at every location of its scope."""

    per: Scope
    """`site`: each targeted linear module. `role`: each role (and shape) among those, with one tensor for all its
    layers. `attention`, `mlp`, `layer`: each such block. `model`: once. `weight`, `bias`, `norm`: each existing
    parameter of the backbone (all parameters, the biases, or those of norms). Without `shape` and `count` the tensor is
    that parameter itself. With one of them it is a new tensor beside the parameter."""
    roles: list[Role] | None = None
    """Only locations with these roles (for blocks: `attn`, `xattn`, `mlp`, `layer`)."""
    if_: FormulaField | None = Field(default=None, alias="if")
    """The tensor exists only if this holds, for example `layer >= n_drop and mode == 'full'`."""
    shape: list[FormulaField] | None = None
    count: FormulaField | None = None
    """The number of entries, instead of a shape, if the tensor is not dense."""
    copies: FormulaField = Field(default=1, validate_default=True)
    """The number of such tensors at each location."""
    requires: FormulaField | None = None
    """A condition at each location, for example `d_in % n == 0`. The entry's own `requires` applies to all its tensors
    per site that do not declare another."""
    init: Annotated[Line, AfterValidator(_start)]
    """The initial values, in the language of `schema.initial`: `zeros`, `normal(0.02)`, `uniform(1 / sqrt(d_in))`,
    `computed: ...`, `drawn: ...`. A test draws them."""
    trained: bool | FormulaField | Moved
    """True if the optimiser updates the tensor. A formula gives the number of updated entries at each location, and
    `{across: ...}` gives it for all locations together."""
    stored: Annotated[list[Stored], BeforeValidator(_stored)]
    served: Literal["merged", "kept", "absent"]
    """At inference: merged into the backbone's own weights, kept beside them, or absent."""
    note: Line | None = None

    @property
    def when(self) -> Formula | None:
        """The part of `if` that depends on hyperparameters only."""
        return _decided(self.if_)[0]

    @property
    def where(self) -> Formula | None:
        """The part of `if` that depends on the location."""
        return _decided(self.if_)[1]

    @property
    def selecting(self) -> bool:
        """True if the tensor is an existing parameter of the backbone, not a new tensor."""
        return self.per in OF_PARAMETERS and self.shape is None and self.count is None

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not self.selecting and (self.shape is None) == (self.count is None):
            raise ValueError("give either a shape or a count")
        return self

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula]]:
        """Yield every formula with its location in the entry."""
        for i, size in enumerate(self.shape or []):
            yield ("shape", i), size
        for name in ("count", "copies", "requires"):
            if isinstance(formula := getattr(self, name), Formula):
                yield (name,), formula
        if self.if_ is not None:
            yield ("if",), self.if_
        if isinstance(self.trained, Formula):
            yield ("trained",), self.trained
        if isinstance(self.trained, Moved):
            yield ("trained", "across"), self.trained.across
        for i, part in enumerate(self.stored):
            for name in ("count", "across"):
                if isinstance(formula := getattr(part, name), Formula):
                    yield ("stored", i, name), formula


class Include(Entry):
    """Another entry's tensors, included under a prefix. Its hyperparameters can be renamed or set."""

    method: Id
    as_: Name = Field(alias="as")
    rename: dict[Name, Name] = {}
    """The included entry's hyperparameter -> ours."""
    set: dict[Name, Value] = {}
    """The included entry's hyperparameter -> a value, or a formula in quotes over ours."""


class BaseStorage(Entry):
    """The storage format of the frozen weights, if a method changes it (quantisation)."""

    roles: list[Role]
    count: FormulaField
    """Values stored per weight matrix, as a formula over `numel`."""
    bits: int = Field(ge=1, le=64)
    note: Line | None = None


class Properties(Entry):
    """Properties of the adapted model."""

    identity_at_init: Literal["exact", "approximate", "none"]
    inference_positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that the method adds to every input at inference."""
    note: Line | None = None


class Kept(Entry):
    """Values saved for backward at every location of a scope."""

    per: Literal["site", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """`weight`, `bias`, `norm`: each of the backbone's own parameters of that kind, with `numel` entries."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    input: bool = False
    """True if the module's input is saved. This applies to a site, the weight of a linear layer, a feed-forward
    block or an attention (there: the input of the queries). An input saved by several records counts once. For a
    layer: the layer's input, which a checkpoint saves anyway."""
    output: bool = False
    """True if a site's output is saved. If the targeted module is fused, its whole output is saved."""
    count: FormulaField = Field(default=0, validate_default=True)
    """Additional saved values. The formula may also use `seq` (the length of a sequence), `tokens` (of all sequences of
    a batch), `outputs` (of the language model's head; 0 without one) and `post_norm` (1 if norms follow the residual
    sums, else 0)."""
    bits: int | None = Field(default=None, ge=1, le=64)
    """Bits per value of `count`, if they do not have the type of the activations (8 for a dropout mask)."""
    live: bool = False
    """Only if a gradient flows into the module's input (for an attention or feed-forward block: into the input of its
    last module; for a layer: of its first). No gradient flows before the first trained tensor."""
    temporary: FormulaField = Field(default=0, validate_default=True)
    """Additional values that the backward pass needs temporarily at this location."""
    products: FormulaField = Field(default=0, validate_default=True)
    """Multiply-adds of the forward pass at this location, besides the products of the method's matrices (tensors with
    two axes) with all tokens. The backward pass needs twice as many."""
    frozen_products: FormulaField = Field(default=0, validate_default=True)
    """Multiply-adds of products in which one factor is frozen. The backward pass needs as many."""
    held: bool = False
    """True if the values persist between steps, as a mask over gradients or a copy of the initial values does. They
    then count as weights do and do not affect where gradients flow."""
    keys: FormulaField = Field(default=0, validate_default=True)
    """For an attention: the number of additional keys."""
    layers: FormulaField = Field(default=0, validate_default=True)
    """For the model: the number of additional layers that run beside it. They equal the layers of its last stack and
    are trained as a whole."""
    enters: Literal["embeddings", "inputs", "attention", "end", "norm"] = "end"
    """The point at which the trained tensors enter the block. Nothing before the first of them is saved. `inputs`:
    with the block's input. `attention`: between keys and queries, as additional keys. `end`: after the block.
    `norm`: after the norm of the block's residual sum. `embeddings`: at the model's embeddings."""

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.per != "attention" and (self.keys.literal != 0 or self.enters == "attention"):
            raise ValueError(f"only an attention has keys; this is per {self.per}")
        if self.per != "model" and (self.layers.literal != 0 or self.enters == "embeddings"):
            raise ValueError(f"only the model has layers and embeddings; this is per {self.per}")
        if self.input and self.per in ("model", "bias", "norm"):
            raise ValueError(f"what is read has no name there; this is per {self.per}")
        return self

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return _placed(self.per, self.roles, self.if_, self.count)


def _placed(per: str, roles: list[str] | None, condition: Formula | None, count: Formula) -> Tensor:
    """A dummy tensor with a location only. Layout places any record by it."""
    known: dict[str, Any] = {
        "per": per, "roles": roles, "if": condition, "count": count, "init": "computed: activations",
        "trained": False, "stored": "none", "served": "absent",
    }  # fmt: skip
    return Tensor(**known)


class Act(Entry):
    """The computation of a method at every location of a scope, as functions in the language of `peftonomy.memory`.

    `before x` changes the input of a module or block, and `after x y` its output. `weight w` and `bias b` replace a
    parameter. A point of the model (`embedded x`, `widen k v`) is called by its name.
    """

    per: Literal["site", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` restrict the locations as for a tensor."""
    like: Name | None = None
    """A pattern of `backbones/operations.yaml` whose functions this record uses."""
    names: dict[Name, str] = {}
    """Replacements for words of that pattern."""
    functions: Functions = {}
    """The record's functions, each by its head."""
    holds: FormulaField = Field(default=0, validate_default=True)
    """Bytes that persist between steps, besides the method's tensors."""

    def tensor(self) -> Tensor:
        """A dummy tensor, so that layout can place this record."""
        return _placed(self.per, self.roles, self.if_, self.holds)


class Memory(Entry):
    """Memory that training needs beyond the declared tensors: the mechanism only, never a measured number.

    Without this record a method can be sized only if it trains nothing but parameters of the backbone.
    """

    operations: list[Act] | None = None
    """The method's computation. It will replace all fields below once every method declares it."""
    keeps: list[Kept] = []
    positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that the method adds to every input during training."""
    gradients: Literal["through", "side"] = "through"
    """`through`: gradients pass through the backbone. `side`: gradients pass only through the modules beside it."""
    composed: bool = False
    """True if the method multiplies tokens by a combination of its matrices and not by the matrices themselves. Then
    only `products` declares the number of multiplications."""
    note: Line | None = None

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula, str]]:
        """Yield every formula with its location in the record and its scope."""
        yield ("positions",), self.positions, "model"
        for i, kept in enumerate(self.keeps):
            for keys, formula in kept.tensor().formulas():
                if keys != ("copies",):
                    yield ("keeps", i, *keys), formula, kept.per
            yield ("keeps", i, "temporary"), kept.temporary, kept.per
            yield ("keeps", i, "products"), kept.products, kept.per
            yield ("keeps", i, "frozen_products"), kept.frozen_products, kept.per
            yield ("keeps", i, "keys"), kept.keys, kept.per
            yield ("keeps", i, "layers"), kept.layers, kept.per


class ClosedForm(Entry):
    """A formula as printed in a paper. A test checks that it equals our count if the assumptions hold."""

    quantity: FormulaField
    formula: FormulaField
    assumes: list[FormulaField] = []
    families: list[str] | None = None
    """Model types to which the formula applies, if not all."""
    targets: list[Role] | None = None
    task: str | None = None
    set: dict[Name, Value] = {}
    source: Citation


class ClaimPart(Entry):
    """One of several methods whose ledgers a printed number adds up."""

    method: Id
    times: int = Field(default=1, ge=1)
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None


class Claim(Entry):
    """A printed number. A test recomputes it to the printed digits."""

    id: Id
    quantity: FormulaField
    """A formula over `trained`, `stored`, `stored_bits`, `stored_bytes`, `shared`, `served`, `served_bits`, `head`,
    `backbone`, `percent`, `base_bytes` and dimensions."""
    model: Id
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    """The methods that the source counted, if not this method once. Their ledgers are added up."""
    task: str | None = None
    num_labels: int = 2
    reported: Stem
    """The number as printed: `37.7M`, `0.08%`, `20,480`."""
    source: Citation
    evidence: Literal["read", "second_hand"]
    """`read`: we opened the source itself. `second_hand`: we opened a page that quotes it. A number known only from
    memory is not a claim."""
    verdict: Literal["reproduced", "convention", "contradicted", "unverifiable"] = "reproduced"
    """`convention`: the number is reproduced only under the convention in `note`. `contradicted`: our count differs."""
    note: Line | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.verdict != "reproduced" and not self.note:
            raise ValueError(f"a verdict of {self.verdict} needs a note that says why")
        return self


class Share(Entry):
    """A share or multiple in the entry's prose, either computed or taken from a source."""

    text: Line
    """The words exactly as in the prose."""
    quantity: FormulaField | None = None
    """A formula over the names of a claim's quantity. With the prefix `other_` a name refers to `beside`."""
    between: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The smallest and the largest value that the words allow."""
    model: Id | None = None
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    beside: ClaimPart | None = None
    """Another method, or another setting of this one, to which the words compare it."""
    task: str | None = None
    num_labels: int = 2
    source: Citation | None = None
    """The source of a number that is not a count: a time, a quality, a published share."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        computed = [self.quantity, self.between, self.model]
        if any(v is not None for v in computed) and any(v is None for v in computed):
            raise ValueError("a computed share has a quantity, a model, and the values it lies between")
        if (self.quantity is None) == (self.source is None):
            raise ValueError("a share has either a quantity or a source")
        return self


class Relation(Entry):
    """A link to an older method; its inverse is generated."""

    type: Id
    target: Id
    note: Prose
    source: Citation
    at: dict[Name, Value] = {}
    """For `generalizes`: the setting of this method at which the two are equal."""


class Pitfall(Entry):
    """A difference between papers, official code and libraries, or a common mistake in counting."""

    note: Prose
    source: Citation


class Deviation(Entry):
    """A difference between a library (or the authors' code) and the reference or paper."""

    shared: Id | None = None
    """The id of a difference that the library's file describes once for many methods. It supplies the fields omitted
    here."""
    note: Prose
    effect: Literal["counts", "outputs", "none"]
    """The effect on the trained model: its counts, its outputs for the same tensors, or neither."""
    against: Literal["reference", "paper"] = "reference"
    """`reference`: the entry and its reference implementation. `paper`: the paper, if our implementation follows the
    library."""
    about: Literal["counts", "outputs", "start", "defaults", "names", "support", "storage", "training"] | None = None
    """The subject, if `effect` does not give it: the initial values, defaults, names of arguments, unsupported models
    or modules, the contents of files, or the training procedure."""
    golden: list[Stem] = []
    """Rows of the golden vector that differ for this reason, such as `init W_down` or `trained gain`."""
    source: Citation | None = None

    @property
    def subject(self) -> str:
        """The subject in one word."""
        return self.about or (self.effect if self.effect != "none" else "other")


class SharedDeviation(Entry):
    """A deviation that applies to many methods of one library, as declared in the library's file."""

    note: Prose
    effect: Literal["counts", "outputs", "none"]
    against: Literal["reference", "paper"] = "reference"
    about: Literal["counts", "outputs", "start", "defaults", "names", "support", "storage", "training"] | None = None


Shared = Mapping[str, Mapping[str, SharedDeviation]]
"""Of each library, its shared deviations by their names."""


class SharedFile(RootModel[dict[Id, dict[Id, SharedDeviation]]]):
    """taxonomy/deviations.yaml"""


def nothing_shared() -> Shared:
    """Return no shared deviations."""
    return {}


class Implementation(Entry):
    """The method in a library, or in its authors' code.

    The format of the library's configuration is declared here too. With it, peftonomy reads and writes configurations
    and predicts the library's counts.
    """

    symbol: Stem | None = None
    url: Annotated[str, Field(pattern=r"^https://[^\s\"'<>]+$", max_length=300)] | None = None
    type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=40)] | None = None
    """The library's name for the method in saved configurations (`peft_type` in an adapter_config.json)."""
    rename: dict[Name, Argument] = {}
    """Our hyperparameter -> the library's name. With a `type`, list all hyperparameters that the library has, also
    those with equal names. The command line accepts these names as well."""
    set: dict[Name, Any] = {}
    """The library's arguments, with values, that select this method among those of the same `type`. A list matches any
    list that is not empty. A mapping matches any mapping that contains its items."""
    apart: dict[Name, Argument] = {}
    """A tensor per site -> the library's argument that names its modules. Other tensors use the other targets."""
    write: dict[Argument, FormulaField] = {}
    """Further arguments of the library, computed from our hyperparameters and the model's dimensions."""
    unites: dict[Argument, Id] = {}
    """For a configuration that contains configurations: the argument -> the method that it configures. That method has
    our hyperparameters of the same names."""
    read: dict[Name, FormulaField] = {}
    """Our hyperparameters that are not renamed arguments, computed from the library's arguments."""
    defaults: dict[Name, Value] = {}
    """The library's default for our hyperparameter, if it differs from ours."""
    trained: FormulaField | None = None
    """The number of parameters that the library trains, if it differs from our `trained`. The formula may use the
    ledgers, `added` (all new tensors), our hyperparameters, the library's arguments and the model's dimensions. It may
    also use `biased_d_in biased_d_out n_biased` (of targeted modules with a bias), `n_tied` (modules that share the
    table of the input embedding) and, for a tensor T of ours, `n_T` and `total_T` (the number of these tensors and of
    all their entries)."""
    stored: FormulaField | None = None
    """The number of values in the file that the library saves, if it differs from our `stored`."""
    added: FormulaField | None = None
    """The number of parameters that the library adds to the model, if they are not our new tensors."""
    source: Citation | None = None
    checked: list[Literal["counts", "outputs", "start"]] = []
    """The properties that a test compares by running both implementations."""
    deviations: list[Deviation] = []


class Basis(Entry):
    """The evidence for an entry without a vector recorded from the authors' code."""

    rests_on: Literal["library", "paper", "second_hand"]
    """A library that we read and run, the paper that we read, or a text that describes the method."""
    reason: Line
    """The reason for the missing vector, for example that the authors published no code."""
    source: Citation


class MethodEntry(Entry):
    """One PEFT method, declared in `methods/<id>.yaml`."""

    id: Id
    name: Stem
    full_name: Line
    aliases: list[Stem] = []
    """Other names and abbreviations that people search for."""
    year: int = Field(ge=1990, le=2100)
    category: Category
    facets: dict[Id, Id | list[Id]]
    summary: Annotated[str, Field(min_length=20, max_length=160, pattern=r"^[A-Z][^\n\\$*^_{}<>=]*\.$")]
    """One plain sentence without symbols."""
    description: Prose
    """The method's function, its motivation, and when to use it or not, for a graduate student. No mathematics in the
    first paragraph."""
    source: Citation
    update: Annotated[str, Field(min_length=1, max_length=1000)]
    """The update rule in LaTeX."""
    where: Line
    """The location in the network where the method acts, in a sentence."""
    hyperparameters: dict[Name, Hyperparameter] = {}
    targets: Targets | None = None
    requires: FormulaField | None = None
    """A condition on every targeted module, for example `r <= min(d_in, d_out)`."""
    tensors: dict[Name, Tensor] = {}
    includes: list[Include] = []
    base_storage: dict[Name, BaseStorage] = {}
    properties: Properties
    memory: Memory | None = None
    closed_forms: list[ClosedForm] = []
    claims: list[Claim] = []
    shares: list[Share] = []
    relations: list[Relation] = []
    pitfalls: list[Pitfall] = []
    implementations: dict[Id, Implementation] = {}
    basis: Basis | None = None
    """The evidence for update, initial values and defaults, if we did not run the authors' code."""

    @model_validator(mode="before")
    @classmethod
    def _required(cls, data: Any) -> Any:
        """Copy the entry's `requires` to its tensors per site."""
        if not isinstance(data, dict) or "requires" not in data or not isinstance(data.get("tensors"), dict):
            return data
        tensors = {
            name: {"requires": data["requires"], **tensor}
            if isinstance(tensor, dict) and tensor.get("per") == "site" else tensor
            for name, tensor in data["tensors"].items()
        }  # fmt: skip
        return data | {"tensors": tensors}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.tensors and not self.includes:
            raise ValueError("an entry declares at least one tensor, or includes another entry")
        for name in self.hyperparameters:
            if keyword.iskeyword(name) or name in JS_RESERVED or name in FUNCTIONS:
                raise ValueError(f"hyperparameter {name!r} is a reserved word; choose another name")
        if self.targets is None and any(t.per in ("site", "role") for t in self.tensors.values()):
            raise ValueError("a tensor per site or role needs `targets`")
        return self

    @cached_property
    def alternative_names(self) -> Mapping[str, str]:
        """A library's name for a hyperparameter -> ours."""
        found: dict[str, str] = {}
        for implementation in self.implementations.values():
            for ours, theirs in implementation.rename.items():
                if theirs not in self.hyperparameters and "." not in theirs:
                    found.setdefault(theirs, ours)
        return found

    def prose(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every text for readers, with its location."""
        yield from _prose(self.model_dump(by_alias=True), ())

    def citations(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every cited source, with its location."""
        yield from _citations(self.model_dump(by_alias=True), ())

    @cached_property
    def cited(self) -> frozenset[str]:
        """The key of every cited source; `editors` marks our own choices."""
        return frozenset(source.partition("#")[0] for _, source in self.citations())


def _prose(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("summary", "description", "note", "meaning", "reason") and isinstance(inner, str):
                yield (*keys, key), " ".join(inner.split())
            else:
                yield from _prose(inner, (*keys, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _prose(inner, (*keys, i))


def _citations(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "source" and isinstance(inner, str):
                yield (*keys, key), inner
            else:
                yield from _citations(inner, (*keys, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _citations(inner, (*keys, i))


T = TypeVar("T", bound=BaseModel)


def validated(model: type[T], document: Document) -> T:
    """Return the document as a record of type `model`. Raises DataError with every problem and its line."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = {_problem(model, document, dict(e)) for e in error.errors()}
        raise DataError(sorted(problems)) from None


def _problem(model: type[BaseModel], document: Document, error: dict[str, Any]) -> Problem:
    kind, keys = error["type"], tuple(error["loc"])
    keys = _real(document.data, keys)
    line, where = document.line(keys), dotted(keys)
    if kind == "extra_forbidden":
        known = _fields(model, keys[:-1])
        matches = near(str(keys[-1]), known)
        hint = f"did you mean {' or '.join(matches)}?" if matches else ""
        expected = "one of " + ", ".join(sorted(known)) if known else "no such field"
        return Problem(document.path, line, where, "an unknown field", expected, hint, "schema")
    if kind == "missing":
        return Problem(document.path, line, where, "nothing", "this field", "", "schema")
    found = error["input"]
    found = type(found).__name__ if isinstance(found, dict | list) else repr(found)
    message = re.sub(r"^Value error, ", "", error["msg"])
    message = re.sub(r"^(Input|String|List|Dictionary) should ", "", message)
    return Problem(document.path, line, where, found, message, "", "schema")


def _real(data: Any, keys: tuple[Any, ...]) -> tuple[str | int, ...]:
    """Return the part of a pydantic location that exists in the document. Pydantic also names union branches and
    types."""
    kept: list[str | int] = []
    for i, key in enumerate(keys):
        if isinstance(data, dict) and (key in data or i == len(keys) - 1):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            continue
        kept.append(key)
    return tuple(kept)


def _fields(model: type[BaseModel], keys: tuple[str | int, ...]) -> list[str]:
    """Return the field names of a record at `keys` below `model`."""
    for key in keys:
        if isinstance(key, int):
            continue
        fields = {f.alias or n: f for n, f in model.model_fields.items()}
        if key in fields:
            inner = list(_models(fields[str(key)].annotation))
            if inner:
                model = inner[0]
    return [f.alias or n for n, f in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def method_from(
    document: Document, path: Path | None = None, shared: Callable[[], Shared] = nothing_shared
) -> MethodEntry:
    """Read a method entry from its parsed file. The id must equal the file's stem.

    shared: the deviations of taxonomy/deviations.yaml, which are read only if the entry names one. Raises DataError.
    """
    if not isinstance(document.data, dict):
        raise DataError(
            [Problem(document.path, 1, "", type(document.data).__name__, "a mapping of fields", "", "schema")]
        )
    entry = validated(MethodEntry, replace(document, data=_with_shared(document, shared)))
    if path is not None and entry.id != path.stem:
        raise DataError(
            [
                Problem(
                    document.path, document.line(("id",)), "id", entry.id, f"the file's stem, {path.stem}", "", "schema"
                )
            ]
        )
    return entry


def _with_shared(document: Document, shared: Callable[[], Shared]) -> Any:
    """The data of an entry with its shared deviations filled in. Raises DataError for one that no library has."""
    data, problems = document.data, []
    implementations = data.get("implementations")
    if not isinstance(implementations, dict):
        return data
    filled = dict(implementations)
    for library, one in implementations.items():
        if not isinstance(one, dict) or not isinstance(one.get("deviations"), list):
            continue
        rows = list(one["deviations"])
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or "shared" not in row:
                continue
            known = shared().get(library, {})
            if row["shared"] in known:
                rows[i] = known[row["shared"]].model_dump(exclude_unset=True) | row
                continue
            keys = ("implementations", library, "deviations", i, "shared")
            matches = near(str(row["shared"]), known)
            hint = f"did you mean {' or '.join(matches)}?" if matches else ""
            expected = f"a deviation that taxonomy/deviations.yaml has for {library}"
            problems.append(
                Problem(document.path, document.line(keys), dotted(keys), str(row["shared"]), expected, hint, "schema")
            )
        filled[library] = one | {"deviations": rows}
    if problems:
        raise DataError(problems)
    return data | {"implementations": filled}
