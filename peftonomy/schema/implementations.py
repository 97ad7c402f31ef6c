"""The schema of a method's context: relations, pitfalls, libraries and their deviations, the basis of an entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    RootModel,
)

from .base import Argument, Citation, Entry, FormulaField, Id, Line, Name, Prose, Stem, Value

__all__ = [
    "Basis", "Deviation", "Implementation", "Pitfall", "Relation", "Shared", "SharedDeviation", "SharedFile",
    "nothing_shared",
]  # fmt: skip


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
"""Each library's shared deviations by their names."""


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
    list that is not empty. A mapping matches any mapping that contains its items. With `unites`, the arguments of every
    part."""
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
    wider: dict[Name, FormulaField] = {}
    """Our renamed hyperparameter -> the library's domain, if the library also accepts other values. They are counted by
    the same formulas, with a note."""
    fit: dict[Name, FormulaField] = {}
    """Our hyperparameters that the library changes to fit a module. The formulas may use our hyperparameters (with
    `global_X` for the value of X without patterns), the library's arguments, the model's dimensions, sums over the
    targeted modules (`n_weights`: of the sizes of their weights), and the module's `d_in`, `d_out` and `biased` (1 with
    a bias, else 0)."""
    divides: dict[Name, Literal["d_in", "d_out"]] = {}
    """Our hyperparameters that the library changes to the nearest divisor of a module's width, the lower one of two."""
    holds: list[FormulaField] = []
    """Conditions without which the library raises an error, for each targeted module. They may use the names that
    `per_site` may use."""
    per_site: dict[Name, FormulaField] = {}
    """Names for the formulas below: sums over the targeted modules. The formulas may use the names that `fit` may use,
    and those of the formulas below."""
    per_group: dict[Name, FormulaField] = {}
    """Names for the formulas below: sums over groups of targeted modules. A group has the same sizes, and names with
    the same ending from the library's list of targets. `n` is the number of its modules."""
    group_by: list[Stem] = []
    """Expressions that replace this grouping. Modules are a group if the groups of the first match in their names are
    equal. The library fails if their inputs differ."""
    trained: FormulaField | None = None
    """The number of parameters that the library trains, if it differs from our `trained`. The formula may use the
    ledgers, `added` (all new tensors), our hyperparameters, the library's arguments and the model's dimensions. It may
    also use `biased_d_in biased_d_out n_biased` (of targeted modules with a bias), `n_tied` (modules that share the
    table of the input embedding), `table` (its size), `named_table` (the same, or 0 if the embedding has none of the
    library's `embedding_names`) and, for a tensor T of ours, `n_T` and `total_T` (the number of these tensors and of
    all their entries)."""
    stored: FormulaField | None = None
    """The number of values in the file that the library saves, if it differs from our `stored`."""
    added: FormulaField | None = None
    """The number of parameters that the library adds to the model, if they are not our new tensors."""
    remarks: dict[Line, FormulaField] = {}
    """Notes on counts that depend on where the library runs, each with a number, which may use the names above. `{n}`
    in a note stands for the number. A note with the number 0 is left out."""
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
