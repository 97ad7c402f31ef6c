"""What a method entry may say: the pydantic models below are the only schema.

JSON Schema for editors, the field table of the site and the template of `peftonomy new` are generated from them.
An entry declares tensors; every number is derived from those (`_costs`). Field docstrings are the documentation.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
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
"""A library's argument; one inside another's value with dots: `use_bdlora.nblocks`."""
Citation = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(#\S.*)?$", max_length=200)]
"""`bibkey`, `bibkey#locator`, or `editors` (our own judgement, shown as such)."""
Role = Annotated[str, Field(pattern=r"^([a-z_]+:)?[a-z_]+(\.[a-z_*]+)*$|^([a-z_]+:)?\*$", max_length=60)]
"""A role such as `attn.q`, a pattern such as `mlp.*`, with its stack in front where it matters (`decoder:xattn.v`)."""
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
    """Base of all records: closed (an unknown field is an error), strict (no silent conversion), frozen."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True,
        defer_build=True,  # a query reads few of the records: the others' validators are never made
    )  # fmt: skip


def _functions(texts: dict[str, str]) -> dict[str, str]:
    parse_all(texts)
    return texts


Functions = Annotated[dict[str, str], AfterValidator(_functions)]
"""Functions of the language of operations, each by its head, as text."""


class Hyperparameter(Entry):
    """A number or choice that the user sets and that formulas may name."""

    type: Literal["int", "float", "bool", "choice"]
    default: Value
    """The value used when none is given; for numbers it may be a formula in quotes over the model's dimensions."""
    meaning: Line
    source: Citation
    literal: Stem | None = None
    """How the default stands in the cited file, where it follows from another setting there: `reduction_factor 16`."""
    domain: FormulaField | None = None
    """What must hold, over this and the other hyperparameters and the model's dimensions."""
    values: list[Name] | None = None
    """The words of a choice."""
    symbol: Stem | None = None
    """Its LaTeX symbol in the update rule, where that differs from the name."""

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
    """Which linear modules the method acts on, by role."""

    default: list[Role]
    """Roles targeted when the caller names none; roles that a model lacks are skipped."""
    allowed: list[Role]
    """Roles (patterns) that the method's mathematics admits."""
    source: Citation


class Stored(Entry):
    """What of a tensor one task's checkpoint must hold."""

    as_: Literal["values", "indices", "bits", "shared", "seed", "none"] = Field(alias="as")
    """values, indices (positions) and bits are in each task's checkpoint; shared is held once for all tasks; a seed
    regenerates it; none is thrown away, or made from what is stored."""
    count: FormulaField | None = None
    """How many, at each place, if not all entries."""
    across: FormulaField | None = None
    """How many over all places together, where `numel` is their summed size."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        given = [n for n in ("count", "across") if getattr(self, n) is not None]
        if len(given) > (self.as_ not in ("none", "seed")):
            raise ValueError(f"stored as {self.as_} with {' and '.join(given)}")
        return self


class Moved(Entry):
    """How many entries the optimiser moves, over all places together."""

    across: FormulaField


PLACE_NAMES = MODEL_NAMES.union(*LOCAL.values(), OF_STEP)


@cache
def _decided(condition: Formula | None) -> tuple[Formula | None, Formula | None]:
    """A condition in two: what hyperparameters alone decide, and what the place decides."""
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
    """A tensor that the method adds, or selects among the backbone's own, at every place of its scope."""

    per: Scope
    """site: each targeted linear. role: each role (and shape) among those, one tensor for all its layers. attention,
    mlp, layer: each such block. model: once.
    weight, bias, norm: each parameter that the backbone already has (all, the biases, those of norms). Without shape
    and count the tensor is that parameter itself; with one it is a new tensor beside it."""
    roles: list[Role] | None = None
    """Only places with these roles (for blocks: `attn`, `xattn`, `mlp`, `layer`)."""
    if_: FormulaField | None = Field(default=None, alias="if")
    """The tensor exists only where this holds, for example `layer >= n_drop and mode == 'full'`."""
    shape: list[FormulaField] | None = None
    count: FormulaField | None = None
    """Number of entries, in place of a shape, where the tensor is not dense."""
    copies: FormulaField = Field(default=1, validate_default=True)
    """How many such tensors there are at each place."""
    requires: FormulaField | None = None
    """What must hold at each place, for example `d_in % n == 0`. Where the entry itself `requires` something, that
    holds for all its tensors per site which name nothing else."""
    init: Annotated[Line, AfterValidator(_start)]
    """How it starts, in the language of `_initial`: `zeros`, `normal(0.02)`, `uniform(1 / sqrt(d_in))`,
    `computed: ...`, `drawn: ...`. A test draws it."""
    trained: bool | FormulaField | Moved
    """Whether the optimiser updates it; or how many entries it moves, at each place or `{across: ...}` all."""
    stored: Annotated[list[Stored], BeforeValidator(_stored)]
    served: Literal["merged", "kept", "absent"]
    """At inference: folded into the backbone's own weights, kept beside them, or gone."""
    note: Line | None = None

    @property
    def when(self) -> Formula | None:
        """The part of `if` that hyperparameters alone decide."""
        return _decided(self.if_)[0]

    @property
    def where(self) -> Formula | None:
        """The part of `if` that the place decides."""
        return _decided(self.if_)[1]

    @property
    def selecting(self) -> bool:
        """Whether it is a parameter of the backbone, not a new tensor."""
        return self.per in OF_PARAMETERS and self.shape is None and self.count is None

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not self.selecting and (self.shape is None) == (self.count is None):
            raise ValueError("give either a shape or a count")
        return self

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula]]:
        """Every formula with its place in the entry."""
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
    """Another entry's tensors, taken over under a prefix with its hyperparameters renamed or set."""

    method: Id
    as_: Name = Field(alias="as")
    rename: dict[Name, Name] = {}
    """Its hyperparameter -> ours."""
    set: dict[Name, Value] = {}
    """Its hyperparameter -> a value, or a formula in quotes over ours."""


class BaseStorage(Entry):
    """How the frozen weights themselves are held, where a method changes that (quantisation)."""

    roles: list[Role]
    count: FormulaField
    """Numbers held per weight matrix, over `numel`."""
    bits: int = Field(ge=1, le=64)
    note: Line | None = None


class Properties(Entry):
    """What holds of the adapted model."""

    identity_at_init: Literal["exact", "approximate", "none"]
    inference_positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that every input carries more at inference."""
    note: Line | None = None


class Kept(Entry):
    """What training keeps alive from the forward pass to the backward pass, at every place of a scope."""

    per: Literal["site", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """weight, bias, norm: at each of the backbone's own parameters of that kind, of `numel` numbers."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` narrow it as they narrow a tensor."""
    input: bool = False
    """At a site, the weight of a linear map, a feed-forward block or an attention: what the module reads (what an
    attention makes its queries of), which counts once for all that keep it. At a layer: what it reads, which a
    checkpoint keeps anyway."""
    output: bool = False
    """At a site: what the targeted module gives out, all of it where it is fused."""
    count: FormulaField = Field(default=0, validate_default=True)
    """Numbers more, over `seq` (the length of a sequence), `tokens` (of all sequences of a batch), `outputs` (of the
    language model's head, 0 without one) and `post_norm` (1 where norms stand behind the residual sums, else 0) too."""
    bits: int | None = Field(default=None, ge=1, le=64)
    """Bits of each of these numbers, where they do not have the type of the activations (8 for a dropout's mask)."""
    live: bool = False
    """Only where a gradient flows into what the module reads (the last one of an attention or feed-forward block, the
    first of a layer), which nothing before the first trained tensor gets."""
    temporary: FormulaField = Field(default=0, validate_default=True)
    """Numbers more that the backward pass needs there for a while."""
    products: FormulaField = Field(default=0, validate_default=True)
    """Multiplications, each with an addition, that the forward pass does there besides those of the method's matrices
    (tensors with two axes) with all tokens; the backward pass does twice as many."""
    frozen_products: FormulaField = Field(default=0, validate_default=True)
    """The same of products of which one factor is frozen; the backward pass does as many."""
    held: bool = False
    """Whether it stays from step to step, as a mask over gradients or a copy of the start does: then it counts as
    weights do, and says nothing of where gradients flow."""
    keys: FormulaField = Field(default=0, validate_default=True)
    """At an attention: keys that it sees more."""
    layers: FormulaField = Field(default=0, validate_default=True)
    """Of the model: layers like those of its last stack, trained as a whole, that run beside them."""
    enters: Literal["embeddings", "inputs", "attention", "end", "norm"] = "end"
    """Where what is trained there comes in, since what stands before all of it keeps nothing: in a block with what it
    reads, between keys and queries, as more keys do, behind it, or behind the norm of its residual sum; in a model, at
    its embeddings."""

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
        """The same as a tensor that nobody holds, so that it is laid out like one."""
        return _placed(self.per, self.roles, self.if_, self.count)


def _placed(per: str, roles: list[str] | None, condition: Formula | None, count: Formula) -> Tensor:
    """A tensor that only says where: layout places any record like one."""
    known: dict[str, Any] = {
        "per": per, "roles": roles, "if": condition, "count": count, "init": "computed: activations",
        "trained": False, "stored": "none", "served": "absent",
    }  # fmt: skip
    return Tensor(**known)


class Act(Entry):
    """What a method computes at every place of a scope, in functions of the language of `peftonomy.memory`.

    `before x` changes what a module or block reads, `after x y` what it gives out, `weight w` and `bias b` stand in
    place of a parameter; a point of the model (`embedded x`, `widen k v`) is called by its name. `gradient g` changes
    the gradient of a parameter of the model, `gradient_A g` that of the tensor A.
    """

    per: Literal["site", "role", "attention", "mlp", "layer", "model", "weight", "bias", "norm"]
    """`role` only for what it holds."""
    roles: list[Role] | None = None
    if_: FormulaField | None = Field(default=None, alias="if")
    """`roles` and `if` narrow it as they narrow a tensor."""
    like: Name | None = None
    """A pattern of `backbones/operations.yaml` whose functions it takes over."""
    names: dict[Name, str] = {}
    """What stands for words of that pattern."""
    functions: Functions = {}
    """Its functions, each by its head."""
    holds: FormulaField = Field(default=0, validate_default=True)
    """Bytes that stay from step to step besides the method's tensors; `width` is those of one frozen number."""

    def tensor(self) -> Tensor:
        """The same as a tensor that nobody holds, so that it is laid out like one."""
        return _placed(self.per, self.roles, self.if_, self.holds)


class Memory(Entry):
    """What training keeps alive, as far as the tensors do not say it: mechanism only, never a measured number.

    Without it a method can be sized only where all that it trains are parameters of the backbone itself.
    """

    operations: list[Act] | None = None
    """What it computes; takes the place of all below once every method says it."""
    keeps: list[Kept] = []
    positions: FormulaField = Field(default=0, validate_default=True)
    """Sequence positions that every input carries more while training."""
    gradients: Literal["through", "side"] = "through"
    """Whether gradients pass through the backbone, or only through what is beside it."""
    composed: bool = False
    """Whether tokens do not pass the method's matrices themselves, but what is made of these: then only `products` says
    how much is multiplied."""
    note: Line | None = None

    def formulas(self) -> Iterator[tuple[tuple[str | int, ...], Formula, str]]:
        """Every formula with its place in the record and the scope that it is of."""
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
    """A formula as printed in a paper; a test proves it equal to our count where the assumptions hold."""

    quantity: FormulaField
    formula: FormulaField
    assumes: list[FormulaField] = []
    families: list[str] | None = None
    """Model types that it speaks of, if not all."""
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
    """A number that somebody printed; a test recomputes it to the printed digits."""

    id: Id
    quantity: FormulaField
    """Over trained, stored, stored_bits, stored_bytes, served, head, backbone, percent, base_bytes, and dimensions."""
    model: Id
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    """What was really counted, where that is not this method once: the ledgers of these are added up instead."""
    task: str | None = None
    num_labels: int = 2
    reported: Stem
    """As printed: `37.7M`, `0.08%`, `20,480`."""
    source: Citation
    evidence: Literal["read", "second_hand"]
    """Whether somebody here opened the source itself, or a page that quotes it. A number that is known from memory
    alone is no claim."""
    verdict: Literal["reproduced", "convention", "contradicted", "unverifiable"] = "reproduced"
    """`convention`: reproduced only under the convention that `note` states. `contradicted`: our count differs."""
    note: Line | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.verdict != "reproduced" and not self.note:
            raise ValueError(f"a verdict of {self.verdict} needs a note that says why")
        return self


class Share(Entry):
    """A share or multiple that the entry's prose names: computed, or taken from a source."""

    text: Line
    """The words, as they stand in the prose."""
    quantity: FormulaField | None = None
    """Over the same names as a claim's, and those with `other_` in front for `beside`."""
    between: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """The least and the largest value that the words allow."""
    model: Id | None = None
    set: dict[Name, Value] = {}
    targets: list[Role] | None = None
    target_modules: list[str] | Literal["all-linear"] | None = None
    parts: list[ClaimPart] | None = None
    beside: ClaimPart | None = None
    """Another method, or another setting of this one, that the words compare with."""
    task: str | None = None
    num_labels: int = 2
    source: Citation | None = None
    """Where the number stands, if it is not a count: a time, a quality, a published share."""

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
    """For `generalizes`: the setting of this method under which the two coincide."""


class Pitfall(Entry):
    """Where papers, official code and libraries differ, or where a count is easily got wrong."""

    note: Prose
    source: Citation


class Deviation(Entry):
    """A difference between a library (or the authors' code) and what it is held against."""

    shared: Id | None = None
    """A difference that the library's file describes once for many methods; that gives what is not said here."""
    note: Prose
    effect: Literal["counts", "outputs", "none"]
    """What of the trained model it changes: its counts, its outputs for the same tensors, or neither."""
    against: Literal["reference", "paper"] = "reference"
    """Ours (the entry and its reference implementation), or the paper where ours follows the library."""
    about: Literal["counts", "outputs", "start", "defaults", "names", "support", "storage", "training"] | None = None
    """What it is about, where the effect does not say: the start, defaults, names of arguments, models or modules that
    are not supported, what files hold, how it is trained."""
    golden: list[Stem] = []
    """Rows of the golden vector that differ for this reason, such as `init W_down` or `trained gain`."""
    source: Citation | None = None

    @property
    def subject(self) -> str:
        """What it is about in a word."""
        return self.about or (self.effect if self.effect != "none" else "other")


class SharedDeviation(Entry):
    """A deviation of many methods in one library, as the library's file has it."""

    note: Prose
    effect: Literal["counts", "outputs", "none"]
    against: Literal["reference", "paper"] = "reference"
    about: Literal["counts", "outputs", "start", "defaults", "names", "support", "storage", "training"] | None = None


NOTHING_SHARED: Mapping[str, Mapping[str, SharedDeviation]] = {}


class Implementation(Entry):
    """The method in a library, or in its authors' code.

    What a library's configuration says is data too: with it a configuration can be read (which method, which
    setting), written, and its counts be told beforehand.
    """

    symbol: Stem | None = None
    url: Annotated[str, Field(pattern=r"^https://[^\s\"'<>]+$", max_length=300)] | None = None
    type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=40)] | None = None
    """How the library's saved configurations name it (`peft_type` in an adapter_config.json)."""
    rename: dict[Name, Argument] = {}
    """Our hyperparameter -> the library's name (all that it has, those of the same name too, where there is a `type`).
    The command line accepts these as well."""
    set: dict[Name, Any] = {}
    """The library's arguments that make it this method and not a relative of the same type, with their values. A list
    stands for any list that is not empty, a mapping for any that has its items."""
    apart: dict[Name, Argument] = {}
    """A tensor per site -> the library's argument that names the modules which are its own; other tensors have the
    other targets."""
    write: dict[Argument, FormulaField] = {}
    """Further arguments of the library, computed from our hyperparameters and the model's dimensions."""
    unites: dict[Argument, Id] = {}
    """Of a configuration of configurations: its argument -> the method of which one stands there, which has our
    hyperparameters of the same names."""
    read: dict[Name, FormulaField] = {}
    """Our hyperparameters that are no renamed argument, computed from the library's arguments."""
    defaults: dict[Name, Value] = {}
    """The library's default for our hyperparameter, where that is another than ours."""
    trained: FormulaField | None = None
    """What the library trains, where that is not our `trained`: over the ledgers, `added` (all new tensors), our
    hyperparameters, its arguments, the model's dimensions, `biased_d_in biased_d_out n_biased` (of targeted modules
    with a bias), `n_tied` (modules that share the table of the input embedding), and for a tensor T of ours `n_T` and
    `total_T` (how many there are, and their entries together)."""
    stored: FormulaField | None = None
    """Numbers in the file that the library saves, where that is not our `stored`."""
    added: FormulaField | None = None
    """Parameters by which the library's model grows, where those are not our new tensors."""
    source: Citation | None = None
    checked: list[Literal["counts", "outputs", "start"]] = []
    """What a test compares with this library by running both."""
    deviations: list[Deviation] = []


class Basis(Entry):
    """What an entry rests on where no vector was recorded from the authors' code."""

    rests_on: Literal["library", "paper", "second_hand"]
    """A library that we opened and run, the paper that we opened, or a text that describes the method."""
    reason: Line
    """Why there is no vector, for example that the authors published no code."""
    source: Citation


class MethodEntry(Entry):
    """One PEFT method, as `methods/<id>.yaml` has it."""

    id: Id
    name: Stem
    full_name: Line
    aliases: list[Stem] = []
    """Other names and abbreviations under which people look for it."""
    year: int = Field(ge=1990, le=2100)
    category: Category
    facets: dict[Id, Id | list[Id]]
    summary: Annotated[str, Field(min_length=20, max_length=160, pattern=r"^[A-Z][^\n\\$*^_{}<>=]*\.$")]
    """One plain sentence, no symbols."""
    description: Prose
    """What it does, why, when to use it and when not, for a graduate student. No mathematics in the first paragraph."""
    source: Citation
    update: Annotated[str, Field(min_length=1, max_length=1000)]
    """The update rule in LaTeX."""
    where: Line
    """Where in the network it acts, in a sentence."""
    hyperparameters: dict[Name, Hyperparameter] = {}
    targets: Targets | None = None
    requires: FormulaField | None = None
    """What must hold at every targeted module, for example `r <= min(d_in, d_out)`."""
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
    """What update, initial values and defaults rest on, where the authors' code was not run."""

    @model_validator(mode="before")
    @classmethod
    def _required(cls, data: Any) -> Any:
        """Hand what the whole entry requires on to its tensors per site."""
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
        """A library's word for a hyperparameter -> ours."""
        found: dict[str, str] = {}
        for implementation in self.implementations.values():
            for ours, theirs in implementation.rename.items():
                if theirs not in self.hyperparameters and "." not in theirs:
                    found.setdefault(theirs, ours)
        return found

    def prose(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every text for readers, with its place."""
        yield from _prose(self.model_dump(by_alias=True), ())

    def citations(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every source named in the entry, with its place."""
        yield from _citations(self.model_dump(by_alias=True), ())

    @cached_property
    def cited(self) -> frozenset[str]:
        """The key of every source named in the entry; our own choices say `editors`."""
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
    """The document as a record of type `model`. Raises DataError with every problem, each at its line."""
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
    """The part of a pydantic location that exists in the document (it also names union branches and types)."""
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
    """The field names that a record at `keys` below `model` may have."""
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
    document: Document, path: Path | None = None, shared: Mapping[str, Mapping[str, SharedDeviation]] = NOTHING_SHARED
) -> MethodEntry:
    """Read a method entry from its parsed file; the id must be the file's stem.

    shared: of each library, the deviations that its file describes for many methods. Raises DataError.
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


def _with_shared(document: Document, shared: Mapping[str, Mapping[str, SharedDeviation]]) -> Any:
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
            known = shared.get(library, {})
            if row["shared"] in known:
                rows[i] = known[row["shared"]].model_dump(exclude_unset=True) | row
                continue
            keys = ("implementations", library, "deviations", i, "shared")
            matches = near(str(row["shared"]), known)
            hint = f"did you mean {' or '.join(matches)}?" if matches else ""
            expected = f"a deviation of taxonomy/libraries/{library}.yaml"
            problems.append(
                Problem(document.path, document.line(keys), dotted(keys), str(row["shared"]), expected, hint, "schema")
            )
        filled[library] = one | {"deviations": rows}
    if problems:
        raise DataError(problems)
    return data | {"implementations": filled}
