"""What a file under `backbones/` may say: the pydantic models below are its only schema.

A *family* (`families/<model_type>.yaml`) says once, for all models that `transformers` calls by one
`model_type`, which parameters they have: module names, roles and shapes, as formulas over the keys of
config.json. A *model* (`models/<id>.yaml`) gives the config of one public checkpoint and says how it is known.
Nothing here is a count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..errors import DataError, FormulaError, Problem, UnknownName
from ..files.documents import Document, dotted, load_yaml
from ..formula import Formula
from .method import Citation, Entry, FormulaField, Functions, Id, Line, Name, Prose, Stem, validated
from .names import DIMS

__all__ = ["DIMS", "Family", "ModelFile", "load_family", "load_model_file", "load_roles"]

MAX_DIMENSION = 10**9
ConfigValue = bool | int | float | str | list[int] | list[str] | list[list[Any]] | None
Keys = tuple[str | int, ...]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression was expected: {error}") from None
    return text


ModelType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$", max_length=60)]
Task = Annotated[str, Field(pattern=r"^(none|causal_lm|seq_cls)$")]
StackName = Annotated[str, Field(pattern=r"^(encoder|decoder)(_[a-z0-9]+)?$", max_length=40)]
"""What its layers do; where several stacks do the same, with a word of its own behind: `encoder_vision`."""
AttentionName = Annotated[str, Field(pattern=r"^(attn|xattn)$")]
ModulePath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=120)]
LayerPath = Annotated[str, Field(pattern=r"^(\w+\.)+\{layer\}(\.\w+)*$", max_length=120)]
KeyPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=120)]
Prefix = Annotated[str, Field(pattern=r"^(\w+\.)*$", max_length=60)]
PlainRole = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=40)]
Shape = tuple[int, ...]
Sizes = Mapping[str, Any]
"""What formulas see: the config's values, and `num_labels`."""
Tensors = tuple[tuple[str, Shape], ...]


def formula(value: str | int) -> Any:
    """A default for a formula field (pydantic parses it)."""
    return Field(default=value, validate_default=True)


class ConfigKey(Entry):
    """One thing that the family reads from config.json. Without a default it is required."""

    type: Literal["int", "float", "bool", "flag", "layers"]
    """`float`: a number, whole or not. `flag`: a text, or a list of texts, that is asked whether one of its words
    matches `pattern`. `layers`: a list of layers' numbers, or with a `pattern` of a word for each layer; only a
    `where` names it, and asks whether its layer is among them (or has a word that matches)."""
    key: KeyPath | None = None
    """The key in config.json, where it is not called as the formulas call it; `text_config.hidden_size` is the key of
    an object in it."""
    aliases: list[KeyPath] = Field(default_factory=list)
    """Other keys that mean the same; the first of all that is there and not null counts."""
    item: int | None = None
    """Which item is meant where the key may hold a list; a plain number stands for every item."""
    pattern: Annotated[str, AfterValidator(_pattern), Field(max_length=120)] | None = None
    over: FormulaField | None = None
    """How many layers there are, where it is about `layers`."""
    default: FormulaField | None = None
    """Its value where the key is absent: the default of `transformers`, over the keys declared above it (and for
    `layers` over `layer`: whether that one belongs to them)."""
    if_null: FormulaField | None = None
    """Its value where the key is null, if that is not the default."""
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
    """What `transformers` builds for a task."""

    class_: Stem = Field(alias="class")
    prefix: Prefix = ""
    """Where the base model sits inside that class."""


class ModuleSpec(Entry):
    """A module that holds parameters (or would, were they not tied)."""

    kind: str
    path: ModulePath
    """Its name inside the base model, or inside the layer when it belongs to a stack."""
    role: PlainRole
    tasks: list[Task] | None = None
    """The tasks in which it exists; all when absent."""
    outside: bool = False
    """Whether it stands beside the base model (a head), so that the task's prefix is not part of its name."""
    new: bool = False
    """Whether it is made for the task and starts untrained: counted as `head`, not as `backbone`."""
    pretrained: bool = True
    """False for what `transformers` builds but the published checkpoints do not hold."""
    when: FormulaField = formula(1)
    where: FormulaField | None = None
    """The layers that have it, over `layer` too; all when absent."""
    tied_to: ModulePath | None = None
    """The module that owns its parameters, as long as `tied_when` holds."""
    tied_when: FormulaField = formula(1)
    ties: list[Name] | None = None
    """Which of its parameters are tied; all when absent."""

    @property
    def module_path(self) -> str:
        """The module that holds its parameters."""
        return self.path

    def width(self, sizes: Sizes) -> tuple[int, int]:
        """Features that go in and come out."""
        raise NotImplementedError

    def tensors(self, sizes: Sizes) -> Tensors:
        """Its parameters, each with its name after the module's path and its shape."""
        raise NotImplementedError

    def formulas(self) -> Iterator[tuple[Keys, Formula]]:
        """Every formula with its place."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            label = type(self).model_fields[name].alias or name
            if isinstance(value, Formula):
                yield (label,), value
            elif isinstance(value, list | dict):
                parts = enumerate(value) if isinstance(value, list) else value.items()
                yield from (((label, key), part) for key, part in parts if isinstance(part, Formula))


class Linear(ModuleSpec):
    """torch's Linear, weight `[out, in]`; or, as `conv1d`, transformers' Conv1D, weight `[in, out]`."""

    kind: Literal["linear", "conv1d"]
    in_: FormulaField = Field(alias="in")
    out: FormulaField
    bias: FormulaField = formula(0)
    slices: dict[PlainRole, FormulaField] = Field(default_factory=dict)
    """The roles that a fused module holds, and how many output features each has, in order."""
    groups: FormulaField = formula(1)
    """Into how many equal groups of outputs each slice is spread, where each head keeps its queries, keys and values
    together."""

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.in_(sizes), self.out(sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        d_in, d_out = self.width(sizes)
        weight = (d_out, d_in) if self.kind == "linear" else (d_in, d_out)
        return (("weight", weight), ("bias", (d_out,))) if self.bias(sizes) else (("weight", weight),)


class Conv(ModuleSpec):
    """A convolution over one or two axes, weight `[out, in / groups, *kernel]`."""

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
    """A table with `shape` rows and columns."""

    kind: Literal["embedding"]
    shape: list[FormulaField] = Field(min_length=2, max_length=2)

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.shape[0](sizes), self.shape[1](sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        return (("weight", self.width(sizes)),)


class Norm(ModuleSpec):
    """A normalisation with a gain, and with a bias where it centres too."""

    kind: Literal["norm"]
    size: FormulaField
    heads: FormulaField | None = None
    """How many heads have a gain of their own: the weight is then `[heads, size]`."""
    bias: FormulaField = formula(0)

    def width(self, sizes: Sizes) -> tuple[int, int]:
        return self.size(sizes), self.size(sizes)

    def tensors(self, sizes: Sizes) -> Tensors:
        shape: Shape = (self.size(sizes),)
        if self.heads is not None:
            shape = (self.heads(sizes), *shape)
        return (("weight", shape), ("bias", shape)) if self.bias(sizes) else (("weight", shape),)


class Parameter(ModuleSpec):
    """A tensor that no module of a known kind holds; `path` is its own name."""

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


class Dataflow(Entry):
    """How a layer computes, as far as it decides what autograd keeps for the backward pass."""

    norm: Literal["kernel", "float32", "mixed", "float32_gain", "centered", "float32_kernel"]
    """`kernel`: one operation, which keeps its input. `float32`: written out in float32, of which it keeps the input's
    copy. `mixed`: written out as products of the input and a float32 number, of which it keeps both. `float32_gain`:
    as `float32`, the product with the gain in float32 too. `centered`: so, with the mean taken off, of which it keeps
    two copies. `float32_kernel`: one operation on a float32 copy of the input, without a gain."""
    order: Literal["pre", "post", "out"]
    """Whether the norms stand before attention and feed-forward, behind their residual sums, or behind attention and
    feed-forward in front of these sums. With `pre`, roles `norm.attn_out` and `norm.mlp_out` are norms of the last
    kind besides."""
    post: FormulaField = formula(0)
    """Whether they stand behind the residual sums all the same."""
    repeats: FormulaField = formula(1)
    """How many times each layer runs, one after the other."""
    parallel: FormulaField = formula(0)
    """Whether the feed-forward reads what attention reads: the layer's input, through a norm of its own
    (`norm.mlp`) or else through that of attention."""
    activation: FormulaField
    """How many tensors as wide as the feed-forward its activation keeps."""
    keeps_output: FormulaField = formula(0)
    """Whether what the activation keeps is what it gives out."""
    activation_needs: FormulaField = formula(0)
    """How many such tensors its gradient needs for a while besides, where that is written out."""
    dropout: dict[DropoutPlace, FormulaField] = Field(default_factory=dict)
    """Where dropout is, with its probability; there is none where that is 0. `output`: behind the feed-forward only.
    `head`: before the map of `first_token`, which then reads a copy."""
    first_token: PlainRole | None = None
    """The role of the head's map that reads the first token's state as a part of all states, which stay where that map
    is trained."""
    scaled: bool = False
    """Whether embedded tokens are multiplied by a number."""
    rotary: bool = False
    """Whether queries and keys are turned by their positions, with a sine and a cosine for each of a head's numbers (at
    most), and so are no longer parts of what a fused linear map gave out."""
    repeated: FormulaField = formula(0)
    """Whether keys and values are copied for all heads that share them, before fused attention too."""
    heads_first: FormulaField = formula(0)
    """Whether queries lie in memory head by head: what fused attention gives out is then copied for the linear map
    behind it."""
    scores: Literal["float32", "model"] = "model"
    """The type of the queries and keys of which attention takes products, where these are written out."""
    softcap: FormulaField = formula(0)
    """Whether the scores pass a tanh."""
    softmax: Literal["float32", "model"] = "model"
    """The type in which attention takes its softmax, `model` being that of the weights."""
    sdpa: bool = True
    """Whether `transformers` lets the model use PyTorch's own attention; `eager` else."""
    fused: FormulaField = formula(1)
    """Whether that is one operation; with fewer keys than queries that are not said to be shared it is not, and is
    written out in float32."""
    relative_keys: FormulaField = formula(0)
    """Whether relative positions (`embed.relative`) have keys, whose products with the queries are taken for all of
    them and gathered into the scores: keys of their own (`attn.pos_k`), or else those that `attn.k` makes of them."""
    relative_queries: FormulaField = formula(0)
    """Whether they have queries, likewise (`attn.pos_q` or `attn.q`)."""
    checkpointing: bool = True
    """Whether `transformers` can compute layers again in the backward pass in place of keeping what they made."""
    states: bool = False
    """Whether the states between layers are all held until the last layer is through."""
    experts: FormulaField = formula(0)
    """Through how many experts each token goes, in the layers that have some: copies of all tokens, sorted by expert,
    pass two grouped products."""
    router: Literal["float32", "model"] = "model"
    """The type in which a trained router of tokens reads its input."""
    logits: FormulaField = formula(0)
    """How many tensors as wide as the vocabulary are kept between the head and the loss."""
    loss: Literal["float32", "model"] = "float32"
    """The type in which the language model's loss is taken."""
    windowed: bool = False
    """Whether some layers of an encoder see a window only, with a mask and with sines of their own."""
    bias: bool = False
    """Whether a position bias is added to the attention's scores."""
    pixels: FormulaField = formula(0)
    """How many numbers an input has, where inputs are images or sounds. Images all have as many tokens as there are
    positions."""
    frames: FormulaField = formula(0)
    """How many tokens the first stack makes of every sound, by two convolutions, of which the second halves them."""
    buffers: FormulaField = formula(0)
    """Bytes of tables that the model holds besides its weights, such as masks for all positions."""
    source: Citation

    def formulas(self) -> Iterator[tuple[str, Formula]]:
        """Every formula with the name of its field."""
        for name in type(self).model_fields:
            if isinstance(value := getattr(self, name), Formula):
                yield name, value
        yield from (("dropout", probability) for probability in self.dropout.values())


class Operations(Entry):
    """What a model computes, in functions of the language of `peftonomy.memory`: one for each task, `causal_lm` and
    `seq_cls`, one for the layers of each stack, and whatever these call."""

    like: ModelType | None = None
    """The family whose functions it has too, but for those that it writes itself."""
    functions: Functions = Field(default_factory=dict)
    post_norm: FormulaField = formula(0)
    """Whether norms stand behind the residual sums."""
    sdpa: FormulaField = formula(1)
    """Whether `transformers` lets the model use PyTorch's own attention; `eager` else."""
    checkpointing: bool = True
    """Whether `transformers` can compute layers again in the backward pass in place of keeping what they made."""
    pixels: FormulaField = formula(0)
    """How many numbers an input has, where inputs are images or sounds."""
    buffers: FormulaField = formula(0)
    """Bytes of tables that the model holds besides its weights, such as masks for all positions. It may name `width`,
    the bytes of a number, and `has_...` of the modules outside of layers."""
    source: Citation


class FeedForward(Entry):
    """The roles with which the feed-forward block begins and ends."""

    in_: PlainRole = Field(alias="in")
    out: PlainRole


class Stack(Entry):
    """Equal layers, one after the other."""

    layers: FormulaField
    path: LayerPath
    """Where each layer is; a layer that `transformers` runs several times counts once."""
    tasks: list[Task] | None = None
    """The tasks in which it exists; all when absent."""
    dims: dict[Name, FormulaField] = Field(default_factory=dict)
    """Its own sizes where they differ from the family's `dims`. The formulas of its modules may name them."""
    like: StackName | None = None
    """The stack whose `attention`, `mlp` and `modules` it has too, sizes aside."""
    attention: dict[AttentionName, ModulePath]
    """The module inside the layer that holds each attention; one without modules does not exist."""
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
    """What must hold of the config, as `transformers` demands."""
    dims: dict[Name, FormulaField]
    """The sizes that methods may use (see `DIMS`), over the keys of `config`."""
    default_task: Task
    tasks: dict[Task, TaskClass]
    expert_names: list[Name] = Field(default_factory=list)
    """Names of modules by which peft means tensors of experts, since older checkpoints called those so. It then leaves
    alone the modules that do have such a name: neither they nor "all-linear" choose anything here."""
    modules: list[AnyModule]
    """What exists once."""
    stacks: dict[StackName, Stack]
    dataflow: Dataflow | None = None
    """What training keeps alive; without it nothing is said of memory."""
    operations: Operations | None = None
    """What it computes; takes the place of `dataflow` once every family says it."""

    @model_validator(mode="before")
    @classmethod
    def _alike(cls, data: Any) -> Any:
        """The data with the parts that a stack takes over from another filled in."""
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
        """The data with `d_embed` beside `d_model`, unless the family has a formula of its own for it."""
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
        """The task for which `transformers` builds the class of that name. Raises UnknownName."""
        classes = {t.class_: task for task, t in self.tasks.items()}
        if class_name not in classes:
            raise UnknownName("model class", class_name, classes, f"of family {self.model_type}")
        return classes[class_name]

    @property
    def layered(self) -> list[str]:
        """The config's keys that differ from layer to layer."""
        return [name for name, key in self.config.items() if key.type == "layers"]

    def specs(self) -> Iterator[tuple[Keys, ModuleSpec]]:
        """Every module with its place in the file."""
        for i, spec in enumerate(self.modules):
            yield ("modules", i), spec
        for name, stack in self.stacks.items():
            for i, spec in enumerate(stack.modules):
                yield ("stacks", name, "modules", i), spec

    def formulas(self) -> Iterator[tuple[Keys, Formula, set[str]]]:
        """Every formula with its place and the names that it may use there."""
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
        if self.dataflow is not None:
            yield from ((("dataflow", name), f, above) for name, f in self.dataflow.formulas())
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
    """Its name on the Hugging Face Hub."""
    source: Citation
    checked: Literal["config", "dimensions", "total", "recalled"]
    """What the numbers were held against: a copy of the checkpoint's config.json, dimensions that others
    state, only the parameter count that others state, or nothing."""
    note: Line | None = None
    config: dict[Name, ConfigValue | dict[Name, ConfigValue]]
    """As in config.json; `model_type` follows from the family."""


def load_family(path: Path, name: str | None = None) -> Family:
    """The family in a file that messages call `name`. Raises DataError with every problem and its line."""
    document = load_yaml(path, name)
    family = validated(Family, document)
    if problems := list(_contradictions(family, document, Path(path).stem)):
        raise DataError(problems)
    return family


def load_model_file(path: Path, name: str | None = None) -> tuple[ModelFile, Document]:
    """The model in a file, its config still unread. Raises DataError with every problem and its line."""
    document = load_yaml(path, name)
    model = validated(ModelFile, document)
    if model.id != Path(path).stem:
        raise DataError([_problem(document, ("id",), model.id, f"the file's stem, {Path(path).stem}")])
    return model, document


def load_roles(path: Path, name: str | None = None) -> dict[str, str]:
    """`taxonomy/roles.yaml`: what each role means, in a sentence. Raises DataError."""
    document = load_yaml(path, name)
    if not isinstance(document.data, dict):
        found = type(document.data).__name__
        raise DataError([_problem(document, (), found, "a mapping from role to meaning")])
    odd = [k for k, v in document.data.items() if not (isinstance(v, str) and re.fullmatch(r"[A-Z].*\.", v))]
    if odd:
        raise DataError([_problem(document, (k,), repr(document.data[k]), "a sentence") for k in odd])
    return document.data


def _problem(document: Document, keys: Keys, found: str, expected: str) -> Problem:
    return Problem(document.path, document.line(keys), dotted(keys), found, expected, "", "schema")


def _contradictions(family: Family, document: Document, stem: str) -> Iterator[Problem]:
    """What is wrong between the parts of a family, each of which is well formed."""
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
