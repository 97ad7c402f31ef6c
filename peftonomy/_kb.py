"""The knowledge base: methods, models and families, each read from its file when it is first asked for."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._backbone import Backbone, Family, load_family, load_model
from ._costs import Cost
from ._errors import DataError, Problem, UnknownName, UsageError, shown
from ._layout import Part, flattened
from ._plan import Place, Plan
from ._schema import MethodEntry, method_from
from ._table import Table
from ._yaml import Document, load_yaml

if TYPE_CHECKING:
    from ._adapter import Adapter
    from ._applied import Applied
    from ._bib import Bibliography
    from ._export import Configuration
    from ._graph import Graph
    from ._library import Library
    from ._memory import Memory, Step
    from ._query import Selection
    from ._sweep import Sweep
    from ._taxonomy import Planned, Taxonomy

__all__ = ["KnowledgeBase", "Method", "data_root", "load"]

T = TypeVar("T")
ModelLike: TypeAlias = str | Path | Mapping[str, Any] | Backbone
"""A model: its id in the catalogue, the name of its checkpoint on the Hugging Face Hub, the path of a config.json (or
its folder), what that holds, or a backbone."""
ON_THE_HUB = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
"""How names on the Hub look; such a path would need a `./` in front where it does not exist."""
FOLDERS = ("taxonomy", "methods", "backbones")


def data_root() -> Path:
    """The folder with `methods/`, `taxonomy/` and the rest: inside the installed package, else the checkout's root."""
    inside = Path(__file__).parent / "_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent


def load(root: str | Path | None = None) -> KnowledgeBase:
    """The knowledge base under `root`, or the one that comes with the package.

    Files are read when first asked for, so this returns at once. Raises DataError if `root` is no such folder.
    """
    return KnowledgeBase(Path(root) if root is not None else data_root())


class Shelf(Mapping[str, T], Generic[T]):
    """One folder of YAML files as a mapping from id to record, read on demand."""

    def __init__(self, kind: str, folder: Path, read: Callable[[Path], T]):
        self.kind, self.folder, self._read = kind, folder, read
        self._held: dict[str, T] = {}

    @cached_property
    def ids(self) -> dict[str, None]:
        """The ids, sorted (the keys of a dictionary, in which one is found at once)."""
        return dict.fromkeys(sorted(path.stem for path in self.folder.glob("*.yaml")))

    def path(self, key: str) -> Path:
        """The file of one record."""
        return self.folder / f"{key}.yaml"

    def __getitem__(self, key: str) -> T:
        found = self._held.get(key)
        if found is None:
            if key not in self:
                raise UnknownName(self.kind, key, self.ids)
            found = self._held[key] = self._read(self.path(key))
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._held or key in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class Method:
    """One method: its entry, and the questions that can be asked of it."""

    def __init__(self, kb: KnowledgeBase, entry: MethodEntry, document: Document):
        self.kb, self.entry, self.document = kb, entry, document
        self.id, self.name, self.year, self.category = entry.id, entry.name, entry.year, entry.category
        self._plans: dict[Any, Plan] = {}

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The entry and all that it includes, parents first. Raises UsageError if that never ends."""
        return flattened(self)

    def plan(
        self,
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
    ) -> Plan:
        """The method laid out on a model; equal questions share one plan. Raises UsageError or ConfigError."""
        key = (
            model if isinstance(model, str | Backbone) else None,
            targets if isinstance(targets, str | None) else tuple(targets),
            target_modules if isinstance(target_modules, str | None) else tuple(target_modules),
            task,
            num_labels,
        )
        plan = self._plans.get(key) if key[0] is not None else None
        if plan is None:
            if targets is not None and target_modules is not None:
                raise UsageError("give targets (roles) or target modules (suffixes), not both")
            inventory = self.kb.backbone(model).inventory(task, num_labels)
            suffixes = key[2] if key[2] == "all-linear" else _words(key[2])
            plan = Plan(self, inventory, _words(key[1]), suffixes)
            if key[0] is not None:
                self._plans[key] = plan
        return plan

    def cost(
        self,
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        dtype: str = "float32",
        **hyperparameters: Any,
    ) -> Cost:
        """What the method costs on a model.

        model: an id of the catalogue, a path to a `config.json`, its content, or a Backbone. targets: roles such as
        `attn.q`. target_modules: module-name suffixes with peft's meaning, or "all-linear". task: none, causal_lm or
        seq_cls (with `num_labels`). dtype: of stored values. Other keywords are hyperparameters of the entry.
        Raises UsageError for what makes no sense, ConfigError for a config.json that cannot be counted.
        """
        plan = self.plan(model, targets=targets, target_modules=target_modules, task=task, num_labels=num_labels)
        return plan.cost(hyperparameters, dtype)

    def memory(
        self,
        model: ModelLike,
        *,
        batch: int,
        seq: int,
        dtype: str = "bfloat16",
        optimizer: str = "adamw",
        checkpointing: bool = False,
        attention: str = "sdpa",
        quantized: str | None = None,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        **hyperparameters: Any,
    ) -> Memory:
        """What a training step of the method takes, in bytes, without running it.

        batch: sequences, each of `seq` tokens. dtype: float32, bfloat16, float16 or mixed (what is trained in float32,
        the rest and the activations in half precision). optimizer: see `_memory.OPTIMIZERS`. attention: sdpa or eager.
        quantized: nf4 or int8, how the layers' frozen matrices are held. task: by default the model's own, or sequence
        classification where it has none. Others as for `cost`. Raises UsageError for what makes no sense, and where
        entry or family do not say what it takes.
        """
        from ._memory import Setting

        setting = Setting(batch, seq, dtype, optimizer, checkpointing, attention, quantized)
        where: dict[str, Any] = {"targets": targets, "target_modules": target_modules, "num_labels": num_labels}
        return self.step(model, task, **where).memory(hyperparameters, setting)

    def step(self, model: ModelLike, task: str | None = None, **where: Any) -> Step:
        """The method laid out on a model for training; arguments as for `plan`, but for the task: by default the
        model's own, or sequence classification where it has none. Raises UsageError."""
        backbone = self.kb.backbone(model)
        if task is None and backbone.default_task == "none" and "seq_cls" in backbone.tasks:
            task = "seq_cls"
        return self.plan(model if isinstance(model, str) else backbone, task=task, **where).step

    def sweep(
        self,
        model: ModelLike | list[ModelLike] | tuple[ModelLike, ...],
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        dtype: str = "float32",
        **hyperparameters: Any,
    ) -> Sweep:
        """What the method costs at many settings at once: hyperparameters may be arrays, which broadcast (needs numpy).

        Arguments as for `cost`, and the same numbers. Raises UsageError as `cost` does for the first bad setting.
        Several models, in a list, get a first axis of their own; what `cost` would refuse on some of them is masked.
        """
        from ._sweep import sweep, sweep_models

        def plan(one: ModelLike) -> Plan:
            return self.plan(one, targets=targets, target_modules=target_modules, task=task, num_labels=num_labels)

        if not isinstance(model, list | tuple):
            return sweep(plan(model), hyperparameters, dtype)
        backbones = [self.kb.backbone(one) for one in model]
        plans, refusals = list[Plan | None](), list[UsageError]()
        for one, backbone in zip(model, backbones, strict=True):
            try:
                plans.append(plan(one if isinstance(one, str) else backbone))
            except UsageError as error:
                plans.append(None)
                refusals.append(error)
        if len(refusals) == len(plans):
            raise refusals[0] if refusals else UsageError("a sweep needs a model")
        return sweep_models([(b.id, b.parameters) for b in backbones], plans, hyperparameters, dtype)

    def places(
        self,
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        **hyperparameters: Any,
    ) -> list[Place]:
        """Every declared tensor at every place of the model, named as in the live model. Arguments as for `cost`."""
        plan = self.plan(model, targets=targets, target_modules=target_modules, task=task, num_labels=num_labels)
        return plan.places(hyperparameters)

    def export(
        self,
        model: ModelLike,
        *,
        to: str = "peft",
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        **hyperparameters: Any,
    ) -> Configuration:
        """The method at this setting as a library is told of it: the call in Python, and the saved configuration.

        to: a library's package, or its id. Other arguments as for `cost`. Raises UsageError for what the library
        cannot do.
        """
        from ._export import export, library_called

        plan = self.plan(model, targets=targets, target_modules=target_modules, task=task, num_labels=num_labels)
        return export(self, plan, hyperparameters, library_called(self.kb.libraries, to))

    def apply(
        self, model: Any, *, targets: str | list[str] | tuple[str, ...] | None = None, **hyperparameters: Any
    ) -> Applied:
        """Apply the reference implementation to a live `transformers` model, in place (needs the torch extra).

        The entry's defaults are filled in for this model; domains, requirements and targets are checked as `cost`
        checks them. Returns a handle with `merge`, `save`, `load`, `remove`, the trained parameters and the predicted
        cost. Raises UsageError before the model is touched where the method does not fit it.
        """
        from ._applied import apply

        return apply(self, model, targets, hyperparameters)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads its own files."""
        return operator.getitem, (self.kb, self.id)

    def __repr__(self) -> str:
        return f"<Method {self.id}: {self.name} ({self.year})>"


class KnowledgeBase(Mapping[str, Method]):
    """All methods by id, with the models they are counted on and the taxonomy they stand in."""

    def __init__(self, root: Path):
        missing = [name for name in FOLDERS if not (root / name).is_dir()]
        if missing:
            raise DataError(
                [Problem(str(root), 0, "", f"no folder {missing[0]}/", "a folder with " + ", ".join(FOLDERS))]
            )
        self.root = root
        self.methods: Shelf[Method] = Shelf("method", root / "methods", self._method)
        self.families: Shelf[Family] = Shelf("model_type", root / "backbones" / "families", self._family)
        self.models: Shelf[Backbone] = Shelf("model", root / "backbones" / "models", self._model)
        self.libraries: Shelf[Library] = Shelf("library", root / "taxonomy" / "libraries", self._library)
        self._by_checkpoint: dict[str, Backbone] = {}

    def _method(self, path: Path) -> Method:
        document = load_yaml(path, self.shown(path))
        return Method(self, method_from(document, path), document)

    def _family(self, path: Path) -> Family:
        return load_family(path, self.shown(path))

    def _model(self, path: Path) -> Backbone:
        return load_model(path, families=self.families, name=self.shown(path))

    def _library(self, path: Path) -> Library:
        from ._library import load_library

        return load_library(path, self.shown(path))

    def reread(self, methods: Iterable[str]) -> KnowledgeBase:
        """A knowledge base where these entries are read again and all else is as it was read here."""
        found, again = KnowledgeBase(self.root), set(methods)
        found.families, found.models, found.libraries = self.families, self.models, self.libraries
        for name in ("taxonomy", "references"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        kept = {key: m for key, m in self.methods._held.items() if key not in again}
        found.methods._held = {key: Method(found, m.entry, m.document) for key, m in kept.items()}
        return found

    def shown(self, path: Path) -> str:
        """How messages call a file: relative to the root where it lies below it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def backbone(self, model: ModelLike) -> Backbone:
        """A model by catalogue id, name on the Hugging Face Hub, path to a `config.json`, content of one, or itself.

        A path that exists goes before a name on the Hub, whose letters may be of either case. Raises UnknownName with
        near matches, UsageError for a name that several models have, ConfigError for a bad `config.json`.
        """
        if isinstance(model, Backbone):
            return model
        if isinstance(model, str) and model in self.models:
            return self.models[model]
        if isinstance(model, str) and not _exists(model):
            hub = ON_THE_HUB.fullmatch(model) is not None and not model.endswith(".json")
            if hub and (found := self._on_the_hub(model)) is not None:
                return found
            if hub or not ("/" in model or model.endswith(".json")):
                where = "(an id of the catalogue, the name of its checkpoint on the Hub, or a path to a config.json)"
                raise UnknownName("model", model, [*self.models, *(self._checkpoints() if hub else ())], where)
        return Backbone.from_config(model, families=self.families)

    def _on_the_hub(self, name: str) -> Backbone | None:
        """The model whose checkpoint has this name; only files that hold the name are read as YAML."""
        wanted = name.lower()
        if wanted not in self._by_checkpoint:
            texts = ((key, self.models.path(key).read_bytes().lower()) for key in self.models)
            held = [self.models[key] for key, text in texts if wanted.encode() in text]
            found = [m for m in held if m.file is not None and (m.file.checkpoint or "").lower() == wanted]
            if len(found) > 1:
                ids = " and ".join(m.id for m in found)
                raise UsageError(f"model: {shown(name)} is the checkpoint of {ids}; name one of them by its id")
            if not found:
                return None
            self._by_checkpoint[wanted] = found[0]
        return self._by_checkpoint[wanted]

    def _checkpoints(self) -> Iterator[str]:
        """The names on the Hub of all models that have one."""
        for model in self.models.values():
            if model.file is not None and model.file.checkpoint:
                yield model.file.checkpoint

    def adapter(
        self,
        config: str | Path | Mapping[str, Any],
        model: ModelLike,
        *,
        library: str = "hf_peft",
        method: str | None = None,
        task: str | None = None,
        num_labels: int = 2,
        dtype: str = "float32",
    ) -> Adapter:
        """What a library's saved configuration says, and what it costs on a model.

        config: the path of an `adapter_config.json`, or its content. library: an id of `libraries`. method: which
        it is, where a configuration cannot tell (another optimiser, a quantised model). task, num_labels: the class of
        the model, where the configuration does not name it. dtype: of the numbers in the file. Raises ConfigError for
        a configuration that cannot be counted, UsageError for other arguments that make no sense.
        """
        from ._adapter import read_adapter

        return read_adapter(
            self, config, model, library=library, method=method, task=task, num_labels=num_labels, dtype=dtype
        )

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """Categories, facets, relation types, roles and planned methods."""
        from ._taxonomy import Taxonomy

        return Taxonomy.read(self.root / "taxonomy", self.shown)

    @cached_property
    def planned(self) -> dict[str, Planned]:
        """The methods that the taxonomy names and that still have no entry; an entry takes the place of its plan."""
        return {key: planned for key, planned in self.taxonomy.planned.items() if key not in self.methods}

    @cached_property
    def references(self) -> Bibliography:
        """The bibliography."""
        from ._bib import Bibliography

        return Bibliography.read(
            self.root / "taxonomy" / "references.bib", self.shown(self.root / "taxonomy" / "references.bib")
        )

    @cached_property
    def graph(self) -> Graph:
        """Categories, methods and papers with their relations."""
        from ._graph import Graph

        return Graph(self)

    @cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Method -> the fields that a condition may name, with its values; several values are a tuple."""
        from ._query import facts

        return {key: facts(self[key]) for key in self}

    @property
    def deviations(self) -> Table:
        """Every recorded difference between a library and a method: a row each, with what it changes and its source."""
        rows = [
            {
                "method": method.id, "library": library, "against": d.against, "about": d.subject, "effect": d.effect,
                "note": " ".join(d.note.split()), "source": d.source or found.source or "",
            }
            for method in self.values()
            for library, found in method.entry.implementations.items()
            for d in found.deviations
        ]  # fmt: skip
        return Table(rows, caption="Deviations of libraries")

    def query(self, where: str = "", *, category: str | None = None) -> Selection:
        """The methods for which a predicate holds, e.g. `merge == 'exact' and year >= 2023`."""
        from ._query import select

        return select(self, where, category)

    def stored_list(self, name: str) -> Selection:
        """The methods of a stored list, e.g. `mergeable`. Raises UnknownName."""
        from ._query import select

        lists = self.taxonomy.lists
        if name not in lists:
            raise UnknownName("list", name, lists)
        return select(self, lists[name].where, model=lists[name].model)

    def __getitem__(self, key: str) -> Method:
        return self.methods[key]

    def __contains__(self, key: object) -> bool:
        return key in self.methods

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads its own files."""
        return load, (self.root,)

    def __repr__(self) -> str:
        return f"<KnowledgeBase: {len(self.methods)} methods, {len(self.models)} models, {len(self.families)} families>"


def _exists(path: str) -> bool:
    """Whether a path exists; one that no system can have does not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _words(text: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """`"a, b"` or a sequence as a tuple of words; None stays None. Raises UsageError if nothing is named."""
    if text is None:
        return None
    words = tuple(w.strip() for w in text.split(",")) if isinstance(text, str) else text
    if not words or not all(isinstance(w, str) and w for w in words):
        raise UsageError("targets: found an empty name; expected roles or suffixes separated by commas")
    return words
