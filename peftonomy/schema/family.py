"""The schema of the files under `backbones/`. The pydantic models below are its only definition.

A *family* (`families/<model_type>.yaml`) describes all models that share one `model_type` in `transformers`. It
declares their parameters once: module names, roles and shapes, as formulas over the keys of config.json. A *model*
(`models/<id>.yaml`) gives the config of one public checkpoint and its source. These files contain no counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..errors import DataError, FormulaError, Problem, UnknownName, described
from ..files.documents import Document, dotted, load_yaml
from ..formula import Formula
from ..patterns import linear
from .base import Citation, Entry, FormulaField, Functions, Id, Line, Name, Prose, Stem, validated
from .names import DIMS, TASKS

__all__ = ["DIMS", "Family", "Fixed", "ModelFile", "load_family", "load_model_file", "load_roles"]

MAX_DIMENSION = 10**9
ConfigValue = bool | int | float | str | list[int] | list[str] | list[list[Any]] | None
Keys = tuple[str | int, ...]


def _pattern(text: str) -> str:
    try:
        linear(text)
    except ValueError as error:
        raise ValueError(f"a regular expression was expected: {error}") from None
    return text


ModelType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$", max_length=60)]
Task = Annotated[str, Field(pattern=rf"^({'|'.join(TASKS)})$")]
StackName = Annotated[str, Field(pattern=r"^(encoder|decoder)(_[a-z0-9]+)?$", max_length=40)]
"""The function of the stack's layers. If several stacks have the same function, a suffix distinguishes them:
`encoder_vision`."""
AttentionName = Annotated[str, Field(pattern=r"^(attn|xattn)$")]
ModulePath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=120)]
LayerPath = Annotated[str, Field(pattern=r"^(\w+\.)+\{layer\}(\.\w+)*$", max_length=120)]
KeyPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=120)]
Fixed = dict[KeyPath, Annotated[list[bool | int | float | str | None], Field(min_length=1)]]
Prefix = Annotated[str, Field(pattern=r"^(\w+\.)*$", max_length=60)]
PlainRole = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=40)]
Shape = tuple[int, ...]
Sizes = Mapping[str, Any]
"""The names that formulas can use: the config's values, and `num_labels`."""
Tensors = tuple[tuple[str, Shape], ...]


def formula(value: str | int) -> Any:
    """Return a default for a formula field; pydantic parses it."""
    return Field(default=value, validate_default=True)


class ConfigKey(Entry):
    """One value that the family reads from config.json. It is required unless it has a default."""

    type: Literal["int", "float", "bool", "flag", "layers"]
    """`float`: a number, whole or not. `flag`: true if a text, or an item of a list of texts, contains a word that
    matches `pattern`. `layers`: a list of layer numbers or, with a `pattern`, of one word for each layer. Only a
    `where` can name it; it is true if the layer is in the list, or if its word matches. If the pattern matches 1, the
    list has a number for each layer. An empty list with a pattern counts as absent."""
    key: KeyPath | None = None
    """The key in config.json, if it differs from the name in formulas. `text_config.hidden_size` is a key inside an
    object."""
    aliases: list[KeyPath] = Field(default_factory=list)
    """Other keys with the same meaning. The first one that is present and not null counts."""
    item: int | None = None
    """The index of the item to use if the key may contain a list. A plain number stands for every item."""
    pattern: Annotated[str, AfterValidator(_pattern), Field(max_length=120)] | None = None
    over: FormulaField | None = None
    """For `layers`: the number of layers."""
    default: FormulaField | None = None
    """The value if the key is absent: the default of `transformers`, over the keys declared above it. For `layers` the
    formula is over `layer` and gives whether that layer is in the list."""
    if_null: FormulaField | None = None
    """The value if the key is null, if it differs from the default."""
    follows: bool = False
    """True if `transformers` computes an absent value in the model. A copy of the config with other sizes then has
    another value."""
    min: int = 1
    max: int = MAX_DIMENSION

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type != "layers" and (self.type == "flag") != (self.pattern is not None):
            raise ValueError("`pattern` belongs to a flag, and a flag needs it")
        if (self.type == "layers") != (self.over is not None):
            raise ValueError("`over` belongs to layers, and layers need it")
        return self


class TaskClass(Entry):
    """The class that `transformers` builds for a task."""

    class_: Stem = Field(alias="class")
    prefix: Prefix = ""
    """The path of the base model inside that class."""
    labels: int | None = None
    """The only number of labels that the class takes, if there is one."""
    like: Task | None = None
    """An earlier name of the same task, which still works. Functions of the computation have this name."""


class ModuleSpec(Entry):
    """A module that owns parameters, or would own them if they were not tied."""

    kind: str
    path: ModulePath
    """The module's name inside the base model, or inside the layer if it belongs to a stack."""
    role: PlainRole
    tasks: list[Task] | None = None
    """The tasks that include it; all if absent."""
    outside: bool = False
    """True if the module is outside the base model (a head). The task's prefix is then not part of its name."""
    new: bool = False
    """True if the module is created untrained for the task. It counts as `head`, not as `backbone`."""
    pretrained: bool = True
    """False if `transformers` builds the module but the published checkpoints do not contain it."""
    when: FormulaField = formula(1)
    where: FormulaField | None = None
    """The layers that include the module, as a condition over `layer` and the config; all if absent."""
    tied_to: ModulePath | None = None
    """The module that owns the parameters if `tied_when` holds."""
    tied_when: FormulaField = formula(1)
    ties: list[Name] | None = None
    """The tied parameters; all if absent."""

    @property
    def module_path(self) -> str:
        """The path of the module that owns the parameters."""
        return self.path

    def width(self, sizes: Sizes) -> tuple[int, int]:
        """Return the numbers of input and output features."""
        raise NotImplementedError

    def tensors(self, sizes: Sizes) -> Tensors:
        """Return the parameters, each with its name below the module's path and its shape."""
        raise NotImplementedError

    def formulas(self) -> Iterator[tuple[Keys, Formula]]:
        """Yield every formula with its location."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            label = type(self).model_fields[name].alias or name
            if isinstance(value, Formula):
                yield (label,), value
            elif isinstance(value, list | dict):
                parts = enumerate(value) if isinstance(value, list) else value.items()
                yield from (((label, key), part) for key, part in parts if isinstance(part, Formula))


class Linear(ModuleSpec):
    """A torch `Linear` with weight `[out, in]`, or as `conv1d` a transformers `Conv1D` with weight `[in, out]`."""

    kind: Literal["linear", "conv1d"]
    in_: FormulaField = Field(alias="in")
    out: FormulaField
    bias: FormulaField = formula(0)
    slices: dict[PlainRole, FormulaField] = Field(default_factory=dict)
    """The roles in a fused module with the number of output features of each, in order."""
    groups: FormulaField = formula(1)
    """The number of equal groups of outputs over which each slice is spread, if each head stores its queries, keys and
    values together."""

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.in_(sizes), self.out(sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        d_in, d_out = self.width(sizes)
        weight = (d_out, d_in) if self.kind == "linear" else (d_in, d_out)
        return (("weight", weight), ("bias", (d_out,))) if self.bias(sizes) else (("weight", weight),)


class Conv(ModuleSpec):
    """A convolution over one or two axes with weight `[out, in / groups, *kernel]`."""

    kind: Literal["conv"]
    in_: FormulaField = Field(alias="in")
    out: FormulaField
    kernel: list[FormulaField] = Field(min_length=1, max_length=2)
    groups: FormulaField = formula(1)
    bias: FormulaField = formula(0)

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.in_(sizes), self.out(sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        d_in, d_out = self.width(sizes)
        weight = (d_out, d_in // self.groups(sizes), *(size(sizes) for size in self.kernel))
        return (("weight", weight), ("bias", (d_out,))) if self.bias(sizes) else (("weight", weight),)


class Embedding(ModuleSpec):
    """An embedding table; `shape` gives its rows and columns."""

    kind: Literal["embedding"]
    shape: list[FormulaField] = Field(min_length=2, max_length=2)

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.shape[0](sizes), self.shape[1](sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        return (("weight", self.width(sizes)),)


class Norm(ModuleSpec):
    """A normalisation with a gain, and with a bias if it also centres."""

    kind: Literal["norm"]
    size: FormulaField
    heads: FormulaField | None = None
    """The number of heads with their own gain. The weight is then `[heads, size]`."""
    bias: FormulaField = formula(0)

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.size(sizes), self.size(sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        shape: Shape = (self.size(sizes),)
        if self.heads is not None:
            shape = (self.heads(sizes), *shape)
        return (("weight", shape), ("bias", shape)) if self.bias(sizes) else (("weight", shape),)


class Parameter(ModuleSpec):
    """A parameter of a module of no known kind; `path` is the parameter's own name."""

    kind: Literal["parameter"]
    shape: list[FormulaField] = Field(max_length=5)
    """Empty for a single number."""

    @property
    def module_path(self) -> str:
        return self.path.rpartition(".")[0]

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return 1, self.shape[-1](sizes) if self.shape else 1

    def tensors(self, sizes: Sizes) -> Tensors:
        return ((self.path.rpartition(".")[2], tuple(size(sizes) for size in self.shape)),)


AnyModule = Annotated[Linear | Conv | Embedding | Norm | Parameter, Field(discriminator="kind")]


DropoutPlace = Literal["embedding", "attention", "residual", "output", "mlp", "final", "head"]


class Operations(Entry):
    """The computation of a model, as functions in the language of `peftonomy.memory`.

    There is one function for each task, `causal_lm` and `seq_cls`, one for the layers of each stack, and those that
    they call.
    """

    like: ModelType | None = None
    """The family whose functions this one inherits, except those that it defines itself."""
    functions: Functions = Field(default_factory=dict)
    post_norm: FormulaField = formula(0)
    """True if norms follow the residual sums."""
    sdpa: FormulaField = formula(1)
    """True if `transformers` allows PyTorch's own attention for the model; if not, it uses `eager`."""
    interface: bool = True
    """True if attention goes through the interface of `transformers`, where a method can add keys, values and terms."""
    runs: FormulaField = formula(1)
    """How often the model runs each layer, one time after the other. It may name `layer`, the layer's number."""
    checkpointing: bool = True
    """True if the functions hold with gradient checkpointing too: `transformers` has it, and only for whole layers."""
    pixels: FormulaField = formula(0)
    """The number of values per input, if inputs are images or sounds."""
    buffers: FormulaField = formula(0)
    """Bytes of tables that the model holds besides its weights, such as masks for all positions. It may name `width`,
    the bytes of a number, and `has_...` of the modules outside of layers."""
    float32: list[PlainRole] = Field(default_factory=list)
    """Roles of parameters that `transformers` holds in float32 whatever type the model is loaded in."""
    fixed: Fixed = Field(default_factory=dict)
    """Options of config.json that the functions assume: the values for which they hold. Another value is refused."""
    source: Citation


class FeedForward(Entry):
    """The roles of the first and last modules of the feed-forward block."""

    in_: PlainRole = Field(alias="in")
    out: PlainRole


class Stack(Entry):
    """A sequence of equal layers."""

    layers: FormulaField
    path: LayerPath
    """The path of each layer. A layer that `transformers` runs several times counts once."""
    tasks: list[Task] | None = None
    """The tasks that include it; all if absent."""
    dims: dict[Name, FormulaField] = Field(default_factory=dict)
    """The stack's own sizes, if they differ from the family's `dims`. The formulas of its modules may name them."""
    like: StackName | None = None
    """The stack whose `attention`, `mlp` and `modules` this one inherits, without their sizes."""
    attention: dict[AttentionName, ModulePath]
    """The module inside the layer that contains each attention. An attention without modules does not exist."""
    mlp: FeedForward
    modules: list[AnyModule]


class Family(Entry):
    """All models of one `model_type`."""

    model_type: ModelType
    name: Stem
    kind: Literal["encoder", "decoder", "encoder_decoder"]
    source: Citation
    note: Prose | None = None
    config: dict[Name, ConfigKey]
    requires: list[FormulaField] = Field(default_factory=list)
    """Conditions on the config that `transformers` requires."""
    dims: dict[Name, FormulaField]
    """The sizes that methods may use (see `DIMS`), over the keys of `config`."""
    default_task: Task
    tasks: dict[Task, TaskClass]
    expert_names: list[Name] = Field(default_factory=list)
    """Module names that peft treats as the experts' tensors, because older checkpoints named those tensors so. peft
    then skips the modules that do have such a name: neither the names nor "all-linear" select anything here."""
    buffered: list[Name] = Field(default_factory=list)
    """Ends of the names of modules with buffers that are saved with the model."""
    modules: list[AnyModule]
    """The modules outside the stacks."""
    stacks: dict[StackName, Stack]
    operations: Operations | None = None
    """The model's computation. Without it peftonomy predicts no memory."""

    @model_validator(mode="before")
    @classmethod
    def _alike(cls, data: Any) -> Any:
        """Return the data with the inherited parts of each stack filled in."""
        stacks = data.get("stacks") if isinstance(data, dict) else None
        if not isinstance(stacks, dict) or not all(isinstance(s, dict) for s in stacks.values()):
            return data
        shared = ("attention", "mlp", "modules")
        filled = {
            name: {k: v for k, v in stacks.get(s.get("like"), {}).items() if k in shared} | s
            for name, s in stacks.items()
        }
        return data | {"stacks": filled}

    @model_validator(mode="before")
    @classmethod
    def _embedded(cls, data: Any) -> Any:
        """Return the data with `d_embed` equal to `d_model`, unless the family declares a formula for it."""
        if not isinstance(data, dict) or "d_embed" in (data.get("dims") or {}):
            return data

        def filled(part: Any) -> Any:
            own = part.get("dims") if isinstance(part, dict) else None
            if not isinstance(own, dict) or "d_model" not in own:
                return part
            return part | {"dims": own | {"d_embed": own["d_model"]}}

        stacks = data.get("stacks")
        parts = {"stacks": {name: filled(stack) for name, stack in stacks.items()}} if isinstance(stacks, dict) else {}
        return filled(data | parts)

    def task_of(self, class_name: str) -> Task:
        """Return the task for which `transformers` builds the class of that name. Raises UnknownName."""
        classes = {t.class_: task for task, t in reversed(self.tasks.items())}
        if class_name not in classes:
            raise UnknownName("model class", class_name, classes, f"of family {self.model_type}")
        return classes[class_name]

    def task_named(self, name: str) -> Task | None:
        """Return the task with this name, or with this earlier name; None if the family has none."""
        if name in self.tasks:
            return name
        return next((task for task, t in self.tasks.items() if t.like == name), None)

    @property
    def layered(self) -> list[str]:
        """The config's keys that differ from layer to layer."""
        return [name for name, key in self.config.items() if key.type == "layers"]

    def specs(self) -> Iterator[tuple[Keys, ModuleSpec]]:
        """Yield every module with its location in the file."""
        for i, spec in enumerate(self.modules):
            yield ("modules", i), spec
        for name, stack in self.stacks.items():
            for i, spec in enumerate(stack.modules):
                yield ("stacks", name, "modules", i), spec

    def formulas(self) -> Iterator[tuple[Keys, Formula, set[str]]]:
        """Yield every formula with its location and the names that it may use there."""
        above: set[str] = set()
        for name, key in self.config.items():
            for label in ("over", "default", "if_null"):
                if (found := getattr(key, label)) is not None:
                    known = above | {"layer"} if key.type == "layers" and label != "over" else set(above)
                    yield ("config", name, label), found, known
            if key.type != "layers":
                above.add(name)
        yield from ((("requires", i), f, above) for i, f in enumerate(self.requires))
        yield from ((("dims", name), f, above) for name, f in self.dims.items())
        for name, stack in self.stacks.items():
            yield ("stacks", name, "layers"), stack.layers, above
            yield from ((("stacks", name, "dims", dim), f, above) for dim, f in stack.dims.items())
        for keys, spec in self.specs():
            own = {*self.stacks[str(keys[1])].dims} if keys[0] == "stacks" else set()
            for inner, found in spec.formulas():
                extra = {"layer", *self.layered} if inner == ("where",) else {"num_labels"}
                yield (*keys, *inner), found, above | own | extra


class ModelFile(Entry):
    """One public checkpoint."""

    id: Id
    name: Stem
    family: ModelType
    checkpoint: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """The checkpoint's name on the Hugging Face Hub."""
    source: Citation
    checked: Literal["config", "dimensions", "total", "recalled"]
    """The evidence for the numbers: a copy of the checkpoint's config.json, dimensions from another source, only the
    parameter count from another source, or none."""
    note: Line | None = None
    config: dict[Name, ConfigValue | dict[Name, ConfigValue]]
    """The config as in config.json; `model_type` follows from the family."""


def load_family(path: Path, name: str | None = None) -> Family:
    """Read the family in a file that messages call `name`. Raises DataError with every problem and its line."""
    document = load_yaml(path, name)
    family = validated(Family, document)
    if problems := list(_contradictions(family, document, Path(path).stem)):
        raise DataError(problems)
    return family


def load_model_file(path: Path, name: str | None = None) -> tuple[ModelFile, Document]:
    """Read the model in a file without parsing its config. Raises DataError with every problem and its line."""
    document = load_yaml(path, name)
    model = validated(ModelFile, document)
    if model.id != Path(path).stem:
        raise DataError([_problem(document, ("id",), model.id, f"the file's stem, {Path(path).stem}")])
    return model, document


def load_roles(path: Path, name: str | None = None) -> dict[str, str]:
    """Read `taxonomy/roles.yaml`: the meaning of each role, in a sentence. Raises DataError."""
    document = load_yaml(path, name)
    if not isinstance(document.data, dict):
        raise DataError([_problem(document, (), described(document.data), "a mapping from role to meaning")])
    odd = [k for k, v in document.data.items() if not (isinstance(v, str) and re.fullmatch(r"[A-Z].*\.", v))]
    if odd:
        raise DataError([_problem(document, (k,), described(document.data[k]), "a sentence") for k in odd])
    return document.data


def _problem(document: Document, keys: Keys, found: str, expected: str) -> Problem:
    return Problem(document.path, document.line(keys), dotted(keys), found, expected, "", "schema")


def _contradictions(family: Family, document: Document, stem: str) -> Iterator[Problem]:
    """Yield the contradictions between the parts of a family; each part is valid by itself."""
    if family.model_type != stem:
        yield _problem(document, ("model_type",), family.model_type, f"the file's stem, {stem}")
    if family.default_task not in family.tasks:
        yield _problem(document, ("default_task",), family.default_task, f"one of {', '.join(family.tasks)}")
    if missing := [name for name in DIMS if name not in family.dims]:
        yield _problem(document, ("dims",), f"no {', '.join(missing)}", f"all of {', '.join(DIMS)}")
    for name, stack in family.stacks.items():
        for dim in stack.dims.keys() - family.dims.keys():
            yield _problem(document, ("stacks", name, "dims", dim), dim, f"one of {', '.join(family.dims)}")
        for task in stack.tasks or []:
            if task not in family.tasks:
                yield _problem(document, ("stacks", name, "tasks"), task, f"one of {', '.join(family.tasks)}")
    for keys, found, known in family.formulas():
        try:
            found.check(known)
        except FormulaError as error:
            yield _problem(document, keys, found.source, f"column {error.column}: {error.message}")
    paths = {spec.path for spec in family.modules}
    for keys, spec in family.specs():
        if spec.tied_to is not None and spec.tied_to not in paths:
            yield _problem(document, (*keys, "tied_to"), spec.tied_to, "the path of a module outside stacks")
        for task in spec.tasks or []:
            if task not in family.tasks:
                yield _problem(document, (*keys, "tasks"), task, f"one of {', '.join(family.tasks)}")
