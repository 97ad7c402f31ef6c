"""A model that can be counted: its family's formulas with the values of its config.json.

Any `config.json` of a known `model_type` is accepted, as a file or as a mapping. Nothing is downloaded or built,
and torch is not needed.

    >>> import peftonomy
    >>> llama = peftonomy.load().models["llama_2_7b"]
    >>> llama.parameters
    6738415616
    >>> [site.count for site in llama.inventory().resolve_roles(["attn.q", "attn.v"])]
    [32, 32]

The config is validated strictly, because every count depends on it. Every required key must be present, and each
number must be in its valid range. Each error is one line (ConfigError).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, Problem, UnknownName, UsageError, described, near, shown
from ..files.documents import Document
from ..schema.family import Family, ModelFile, Shape, Stack, load_model_file
from ..schema.names import LABELLED
from .config import MAX_LAYERS, MAX_PARAMETERS, read_json, values
from .infer import family as inferred_family
from .listing import built
from .modules import ANSWERS_SAVED_BY_PEFT, INPUT_EMBEDDING, INPUTS, SAVED_BY_PEFT, Block, Memo, Selection, joined

__all__ = ["Backbone", "Inventory", "load_model"]

MAX_LABELS = 1_000_000
INVENTORIES = 16
"""The number of inventories, each of one task and number of labels, that a model caches."""
KNOWN_TYPES = "a family that is described here or, with the torch extra, one that transformers has"


class Inventory(Selection):
    """All modules of a backbone as `transformers` builds it for a task. `Backbone.inventory` creates it."""

    def __init__(self, backbone: Backbone, task: str, num_labels: int):
        self.backbone, self.task, self.num_labels = backbone, task, num_labels
        self.computed = backbone.family.tasks[task].like or task
        """The task under whose name the family declares the computation."""
        self.stacks = {
            name: stack for name, stack in backbone.family.stacks.items() if stack.tasks is None or task in stack.tasks
        }
        sizes = {**backbone.config, "num_labels": num_labels}
        layers = {name: backbone.layers[name] for name in self.stacks}
        modules = tuple(built(backbone.family, sizes, task, layers, backbone.stack_dims))
        saved = ANSWERS_SAVED_BY_PEFT if task == "question_ans" else SAVED_BY_PEFT
        super().__init__(modules, self.stacks, f"{backbone.id} (task {task})", backbone.family.expert_names, saved)

    # Counts and sizes.

    @cached_property
    def total(self) -> int:
        """The number of all parameters, tied ones once."""
        return sum(m.numel for m in self.modules)

    @cached_property
    def reads_tokens(self) -> bool:
        """Whether the model reads tokens. Images and speech have a length that the model determines."""
        return any(m.role == INPUT_EMBEDDING for m in self.modules)

    @cached_property
    def head(self) -> int:
        """The number of parameters in modules that are created for the task."""
        return sum(m.numel for m in self.modules if m.head)

    @cached_property
    def dims(self) -> dict[str, int]:
        """The first stack's sizes, the numbers of layers, attentions and encoders, of kinds of input, and of labels."""
        layers = {name: self.backbone.layers[name] for name in self.stacks}
        return {
            **self.backbone.dims,
            **self.backbone.stack_dims.get(next(iter(layers), ""), {}),
            "n_layers": sum(layers.values()),
            "n_encoder_layers": sum([n for name, n in layers.items() if name.startswith("encoder")]),
            "n_decoder_layers": sum([n for name, n in layers.items() if name.startswith("decoder")]),
            "n_attention": sum([len(b.layers) for b in self.blocks if b.kind == "attention"]),
            "n_encoders": sum([name.startswith("encoder") for name in layers]),
            "n_inputs": len({m.role for m in self.modules} & INPUTS),
            "n_labels": self.num_labels if self.task in LABELLED else 0,
        }

    def parameters(self) -> dict[str, Shape]:
        """Every parameter's name and shape, as in `named_parameters()` of the built model."""
        return {
            joined(path, name): shape
            for module in self.modules
            for _, path in module.paths()
            for name, shape in module.parameters
        }

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The attention and feed-forward blocks and the layers, stack by stack."""
        return tuple(b for name, stack in self.stacks.items() for b in self._blocks(name, stack))

    def _blocks(self, name: str, stack: Stack) -> Iterator[Block]:
        layers = tuple(range(self.backbone.layers[name]))
        dims = {**self.backbone.dims, **self.backbone.stack_dims[name], "n_layers": len(layers)}
        layer = self.backbone.family.tasks[self.task].prefix + stack.path
        for attention, path in stack.attention.items():
            inside = [m for m in self.modules if m.stack == name and m.role.startswith(f"{attention}.")]
            if having := tuple(sorted({n for m in inside for n in m.layers})):
                yield Block("attention", attention, name, having, f"{layer}.{path}", "", "", dims)
        if any(m.stack == name and m.role == stack.mlp.out for m in self.modules):
            yield Block("mlp", "mlp", name, layers, "", stack.mlp.in_, stack.mlp.out, dims)
        yield Block("layer", "layer", name, layers, layer, "", "", dims)

    def __repr__(self) -> str:
        return f"<Inventory of {self.label}: {self.total:,} parameters>"


class Backbone:
    """One model. It is cheap to create: derived values are computed on first use and cached.

    id: its id in the catalogue, or the path of its config.json. config: the values for its family's formulas. file: its
    record in the catalogue, None for the caller's own config. raw: the content of config.json.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        family: Family,
        config: dict[str, Any],
        file: ModelFile | None = None,
        raw: Mapping[str, Any] | None = None,
    ):
        self.id, self.family, self.config, self.file, self.raw = id, family, config, file, raw or {}
        self._inventories = Memo(INVENTORIES)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | str | Path,
        *,
        families: Mapping[str, Family],
        id: str = "",  # noqa: A002
    ) -> Backbone:
        """Return the model of a config.json.

        config: its content, or the path of the file or of its folder. families: by model_type. For a type not in
        `families`, `transformers` (if installed) builds the model without allocating its weights, and the roles of its
        modules are inferred from their names and positions. id: the model's name in results and messages. Raises
        ConfigError, in one line.
        """
        if not isinstance(config, str | Path | Mapping):
            raise ConfigError(id or "config", "", config, "a path of a config.json, or its content")
        source = (id or "config") if isinstance(config, Mapping) else str(config)
        raw = config if isinstance(config, Mapping) else read_json(config)
        return _build(source, raw, _family(source, raw, families, infer=True), id or source)

    @property
    def name(self) -> str:
        """The model's usual name."""
        return self.file.name if self.file else self.id

    @property
    def source(self) -> str:
        """The citation of its dimensions, "" for the caller's own config."""
        return self.file.source if self.file else ""

    @property
    def default_task(self) -> str:
        """The task of the published checkpoint."""
        return self.family.default_task

    @property
    def trained_task(self) -> str:
        """The task of a training step: the default task or, if that has no loss, a classification."""
        if self.default_task != "none":
            return self.default_task
        named = (self.family.task_named(task) for task in LABELLED)
        return next((task for task in named if task is not None), self.default_task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks for which `transformers` has a class."""
        return tuple(self.family.tasks)

    @cached_property
    def dims(self) -> dict[str, int]:
        """The family's sizes: d_model, d_ff, n_heads, ..."""
        return {name: formula(self.config) for name, formula in self.family.dims.items()}

    @cached_property
    def layers(self) -> dict[str, int]:
        """The number of layers of each stack."""
        return {name: stack.layers(self.config) for name, stack in self.family.stacks.items()}

    @cached_property
    def stack_dims(self) -> dict[str, dict[str, int]]:
        """The sizes of each stack, if they differ from the family's."""
        stacks = self.family.stacks.items()
        return {name: {dim: f(self.config) for dim, f in stack.dims.items()} for name, stack in stacks}

    @cached_property
    def parameters(self) -> int:
        """The number of parameters of the published model: its default task, tied ones once, without a new head."""
        inventory = self.inventory()
        return inventory.total - inventory.head

    def inventory(self, task: str | None = None, num_labels: int = 2) -> Inventory:
        """Return its modules as `transformers` builds it for a task (its default task if None).

        Raises UnknownName for a task that the family lacks, UsageError for an invalid number of labels.
        """
        name = self.default_task if task is None else task
        named = self.family.task_named(name) if isinstance(name, str) else None
        if named is None:
            raise UnknownName("task", name, self.family.tasks, f"for {self.id}")
        if type(num_labels) is not int or not 1 <= num_labels <= MAX_LABELS:
            wanted = f"a whole number from 1 to {MAX_LABELS:,}"
            raise UsageError(f"num_labels: found {shown(num_labels)}; expected {wanted}")
        found: Inventory | None = self._inventories.get((named, num_labels))
        if found is None:
            only = self.family.tasks[named].labels
            if only is not None and num_labels != only:
                taken = f"{only}, the only number that {self.family.tasks[named].class_} takes"
                raise UsageError(f"num_labels: found {shown(num_labels)}; expected {taken}")
            found = self._inventories[named, num_labels] = Inventory(self, named, num_labels)
        return found

    def __repr__(self) -> str:
        return f"<Backbone {self.id}: {self.parameters:,} parameters>"


def load_model(path: Path, *, families: Mapping[str, Family], name: str | None = None) -> Backbone:
    """Read the catalogue's model in a file that messages call `name`.

    Raises DataError with every problem, each at its line.
    """
    file, document = load_model_file(path, name)
    try:
        raw = {**file.config, "model_type": file.family}
        return _build(document.path, raw, _family(document.path, raw, families, infer=False), file.id, file)
    except ConfigError as error:
        raise DataError([_at_line(problem, document) for problem in error.problems]) from None


def _at_line(problem: Problem, document: Document) -> Problem:
    """Return a problem of a catalogued config at its line in the model's file."""
    keys = ("family",) if problem.field == "model_type" else ("config", problem.field)
    place = ".".join(keys)
    return Problem(problem.file, document.line(keys), place, problem.found, problem.expected, problem.hint, "config")


def _build(
    source: str,
    raw: Mapping[str, Any],
    family: Family,
    name: str,
    file: ModelFile | None = None,
) -> Backbone:
    """Return the model of a config; `source` is the config's name in messages."""
    backbone = Backbone(name, family, values(source, raw, family), file, raw)
    for stack, layers in backbone.layers.items():
        if layers > MAX_LAYERS:
            key = ", ".join(sorted(family.stacks[stack].layers.names))
            raise ConfigError(source, key, f"{layers:,} layers", f"at most {MAX_LAYERS:,}")
    if backbone.parameters > MAX_PARAMETERS:
        raise ConfigError(source, "sizes", f"{backbone.parameters:.3g} parameters", "at most 2**53")
    return backbone


def _family(source: str, raw: Mapping[str, Any], families: Mapping[str, Family], *, infer: bool) -> Family:
    found = raw.get("model_type")
    if isinstance(found, str) and found in families:
        return families[found]
    if infer and isinstance(found, str) and (inferred := inferred_family(source, raw, families)):
        return inferred
    matches = near(found, families) if isinstance(found, str) else []
    hint = f"did you mean {' or '.join(matches)}?" if matches else ""
    seen = "nothing" if found is None else described(found)
    raise ConfigError(source, "model_type", seen, KNOWN_TYPES, hint)
