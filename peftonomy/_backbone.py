"""A model that can be counted: its family's formulas with its config.json put in.

Any `config.json` of a known `model_type` will do, as a file or as a mapping. Nothing is downloaded or built,
and torch is not needed.

    >>> import peftonomy
    >>> llama = peftonomy.load().models["llama_2_7b"]
    >>> llama.parameters
    6738415616
    >>> [site.count for site in llama.inventory().resolve_roles(["attn.q", "attn.v"])]
    [32, 32]

The config is read as strictly as its numbers matter: a key that the architecture needs must be there, each
number must be one that a model can have, and whatever is wrong is one line (ConfigError).
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from . import _infer
from ._errors import ConfigError, DataError, Problem, UnknownName, UsageError, near, shown
from ._family import ConfigKey, Family, ModelFile, load_family, load_model_file, load_roles
from ._inventory import LINEAR, Block, Inventory, Module, SiteGroup, role_matches
from ._yaml import Document

__all__ = [
    "LINEAR", "Backbone", "Block", "Family", "Inventory", "ModelFile", "Module", "SiteGroup", "load_family",
    "load_model", "load_roles", "role_matches",
]  # fmt: skip

MAX_BYTES = 1_000_000
MAX_LAYERS = 10_000
MAX_LABELS = 1_000_000
MAX_PARAMETERS = 2**53
"""Above this, floating point (JSON readers, JavaScript) no longer holds every integer."""
SINGLE_LAYERS = "per_layer_config"
"""The key with which `transformers` gives single layers sizes of their own; no family file can say that."""
KNOWN_TYPES = "a family that is described here or, with the torch extra, one that transformers has"
MISSING: Any = object()


class Backbone:
    """One model. Cheap to make: what it knows beyond its config is worked out when asked for, and kept.

    id: its id in the catalogue, or the path of its config.json. config: the values that its family's formulas
    use. file: its record in the catalogue, None for a config of the caller's own.
    """

    def __init__(self, id: str, family: Family, config: dict[str, Any], file: ModelFile | None = None):  # noqa: A002
        self.id, self.family, self.config, self.file = id, family, config, file
        self._inventories: dict[tuple[str, int], Inventory] = {}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | str | Path,
        *,
        families: Mapping[str, Family],
        id: str = "",  # noqa: A002
    ) -> Backbone:
        """The model that a config.json describes.

        config: its content, or the path of the file or of its folder. families: by model_type; where they lack
        it, `transformers` (if installed) builds the model without memory, and the roles of its modules are told from
        their names and places. id: how answers and messages call it. Raises ConfigError, in one line.
        """
        source = (id or "config") if isinstance(config, Mapping) else str(config)
        raw = config if isinstance(config, Mapping) else read_json(Path(config))
        return _build(source, raw, _family(source, raw, families, infer=True), id or source)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.file.name if self.file else self.id

    @property
    def source(self) -> str:
        """The citation of its dimensions, "" for a config of the caller's own."""
        return self.file.source if self.file else ""

    @property
    def default_task(self) -> str:
        """The task in which it was published."""
        return self.family.default_task

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
        """How many layers each stack has."""
        return {name: stack.layers(self.config) for name, stack in self.family.stacks.items()}

    @cached_property
    def stack_dims(self) -> dict[str, dict[str, int]]:
        """The sizes of each stack, where they differ from the family's."""
        stacks = self.family.stacks.items()
        return {name: {dim: f(self.config) for dim, f in stack.dims.items()} for name, stack in stacks}

    @cached_property
    def parameters(self) -> int:
        """Parameters of the model as published: its default task, tied ones once, without a new head."""
        inventory = self.inventory()
        return inventory.total - inventory.head

    def inventory(self, task: str | None = None, num_labels: int = 2) -> Inventory:
        """Its modules as `transformers` builds it for a task (its default task if None).

        Raises UnknownName for a task that the family lacks, UsageError for a senseless number of labels.
        """
        task = self.default_task if task is None else task
        found = self._inventories.get((task, num_labels))
        if found is None:
            if task not in self.family.tasks:
                raise UnknownName("task", task, self.family.tasks, f"for {self.id}")
            if type(num_labels) is not int or not 1 <= num_labels <= MAX_LABELS:
                wanted = f"a whole number from 1 to {MAX_LABELS:,}"
                raise UsageError(f"num_labels: found {shown(num_labels)}; expected {wanted}")
            found = self._inventories[task, num_labels] = Inventory(self, task, num_labels)
        return found

    def __repr__(self) -> str:
        return f"<Backbone {self.id}: {self.parameters:,} parameters>"


def load_model(path: Path, *, families: Mapping[str, Family], name: str | None = None) -> Backbone:
    """The model of the catalogue in a file that messages call `name`.

    Raises DataError with every problem, each at its line.
    """
    file, document = load_model_file(path, name)
    try:
        raw = {**file.config, "model_type": file.family}
        return _build(document.path, raw, _family(document.path, raw, families, infer=False), file.id, file)
    except ConfigError as error:
        raise DataError([_at_line(problem, document) for problem in error.problems]) from None


def _at_line(problem: Problem, document: Document) -> Problem:
    """What is wrong with a catalogued config, at the line of the model's file that says it."""
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
    """The model of a config; `source` is how messages call the config."""
    backbone = Backbone(name, family, _values(source, raw, family), file)
    for stack, layers in backbone.layers.items():
        if layers > MAX_LAYERS:
            key = ", ".join(sorted(family.stacks[stack].layers.names))
            raise ConfigError(source, key, f"{layers:,} layers", f"at most {MAX_LAYERS:,}")
    if backbone.parameters > MAX_PARAMETERS:
        raise ConfigError(source, "sizes", f"{backbone.parameters:.3g} parameters", "at most 2**53")
    return backbone


# Reading a file.


def read_json(path: Path) -> dict[str, Any]:
    """The object in a config.json, or in that of a folder. Raises ConfigError for anything else."""
    source = str(path)
    try:
        content = _content(path)
    except OSError as error:
        raise ConfigError(source, "", error.strerror or "a file that cannot be read", "a config.json") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(source, "", f"more than {MAX_BYTES:,} bytes", "a config.json, a few thousand bytes")
    try:
        data = json.loads(content, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ConfigError(source, "", "deep nesting", "the few levels of a config.json") from None
    except json.JSONDecodeError as error:
        found = f"{error.msg} on line {error.lineno}, column {error.colno}"
        raise ConfigError(source, "", found, "valid JSON") from None
    except ValueError as error:  # not UTF-8, a number of thousands of digits, a key twice, NaN
        raise ConfigError(source, "", str(error), "valid JSON") from None
    if not isinstance(data, dict):
        raise ConfigError(source, "", f"a {type(data).__name__}", "a JSON object")
    return data


def _content(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file (a device or a pipe might never end)."""
    if "\0" in str(path):
        raise OSError(0, "no name of a file")
    path = path / "config.json" if path.is_dir() else path
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "no regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shown(key)} twice")
        made[key] = value
    return made


def _constant(text: str) -> None:
    raise ValueError(f"{text}, which JSON does not have")


# Reading a config.


def _family(source: str, raw: Mapping[str, Any], families: Mapping[str, Family], *, infer: bool) -> Family:
    found = raw.get("model_type")
    if isinstance(found, str) and found in families:
        return families[found]
    if infer and isinstance(found, str) and (inferred := _infer.family(source, raw, families)):
        return inferred
    matches = near(found, families) if isinstance(found, str) else []
    hint = f"did you mean {' or '.join(matches)}?" if matches else ""
    seen = "nothing" if found is None else _seen(found)
    raise ConfigError(source, "model_type", seen, KNOWN_TYPES, hint)


def _values(source: str, raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """What the family's formulas use, each value checked by itself and then together."""
    if raw.get(SINGLE_LAYERS) and family.config:  # one that was inferred has no formulas, and no need to say it
        raise ConfigError(source, SINGLE_LAYERS, "sizes of single layers", "layers that are alike")
    values: dict[str, Any] = {}
    for name, key in family.config.items():
        label, given = _given(source, raw, (key.key or name, *key.aliases))
        filled = given in (None, MISSING)
        found = _filled(key, given is None, values) if filled else _item(key, given)
        if found is None:
            seen = "null" if given is None else "nothing"
            raise ConfigError(source, label, seen, f"{_expected(key)}, which {family.name} needs")
        try:
            values[name] = found if filled and key.type == "layers" else _value(key, found, values)
        except ValueError:
            raise ConfigError(source, label, _seen(found), _expected(key)) from None
    for formula in family.requires:
        if not formula(values):
            names = sorted(formula.names)
            seen = ", ".join(f"{n} = {values[n]}" for n in names)
            raise ConfigError(source, " and ".join(names), seen, f"{formula.source}, as in {family.name}")
    return values


def _given(source: str, raw: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, Any]:
    """The first of a key's names under which the config has something, and what; else its own name, null or MISSING."""
    found = [(label, _lookup(source, raw, label)) for label in labels]
    return next((pair for pair in found if pair[1] not in (None, MISSING)), found[0])


def _lookup(source: str, raw: Mapping[str, Any], label: str) -> Any:
    """The value of a key, or of one inside an object (`text_config.hidden_size`); MISSING where there is none."""
    outer, _, inner = label.rpartition(".")
    holder = _lookup(source, raw, outer) if outer else raw
    if holder is None or holder is MISSING:
        return MISSING
    if not isinstance(holder, Mapping):
        raise ConfigError(source, outer, _seen(holder), "an object")
    return holder.get(inner, MISSING)


def _filled(key: ConfigKey, given: bool, above: Mapping[str, Any]) -> Any:
    """The value of a key that is null (`given`) or absent; None if it may not be."""
    formula = key.if_null if given and key.if_null is not None else key.default
    if formula is None:
        return None
    if key.type == "layers":
        return tuple(n for n in _layers(key, above) if formula({**above, "layer": n}))
    value = formula(above)
    return value if key.type in ("int", "float") else bool(value)


def _layers(key: ConfigKey, above: Mapping[str, Any]) -> range:
    """All layers that a key is about."""
    assert key.over is not None
    return range(min(key.over(above), MAX_LAYERS))


def _item(key: ConfigKey, value: Any) -> Any:
    """The item that is meant of a list; a number stands for each."""
    several = key.item is not None and isinstance(value, list | tuple) and len(value) > key.item
    return value[key.item] if several else value


def _value(key: ConfigKey, value: Any, above: Mapping[str, Any]) -> Any:
    """The value as the formulas use it. Raises ValueError for one that the key cannot have."""
    if key.type == "layers":
        return _chosen(key, value, _layers(key, above))
    if key.type == "int" and type(value) is int and key.min <= value <= key.max:
        return value
    if key.type == "float" and type(value) in (int, float) and key.min <= value <= key.max:
        return value
    if key.type in ("bool", "flag") and isinstance(value, bool):
        return value
    words = value.split("|") if isinstance(value, str) else value
    if key.pattern is None or not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
        raise ValueError
    return any(re.fullmatch(key.pattern, word.strip()) for word in words)


def _chosen(key: ConfigKey, value: Any, layers: range) -> tuple[int, ...]:
    """The layers that a list names, or at which it has a matching word. Raises ValueError."""
    kind = int if key.pattern is None else str
    if not isinstance(value, list | tuple) or not all(type(v) is kind for v in value):
        raise ValueError
    if key.pattern is None:
        return tuple(n for n in layers if n in value)
    if len(value) < len(layers):
        raise ValueError
    return tuple(n for n in layers if re.fullmatch(key.pattern, value[n]))


def _expected(key: ConfigKey) -> str:
    if key.type == "layers":
        return "a list of layers' numbers" if key.pattern is None else "a list with a word for each layer"
    if key.type == "int":
        return f"a whole number from {key.min:,} to {key.max:,}"
    if key.type == "float":
        return f"a number from {key.min:,} to {key.max:,}"
    return "true or false" if key.type == "bool" else "a text or a list of texts"


def _seen(value: Any) -> str:
    """A value of a config as a message shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > MAX_PARAMETERS:
        return "a number beyond 2**53"
    return repr(value)
