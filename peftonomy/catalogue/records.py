"""The records of a knowledge base, each read on first use, and a method laid out on a model.

Queries, rules and libraries' configurations use these classes. `peftonomy.knowledge.base`, the interface for users,
adds the queries.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast

from ..backbones.backbone import Backbone, load_model
from ..backbones.modules import Memo
from ..costs.cost import Cost
from ..costs.layout import Part, flattened
from ..costs.plan import Plan
from ..errors import DataError, Problem, UnknownName, UsageError, shown
from ..files.documents import MAX_BYTES, Document, load_yaml
from ..files.reading import read_text
from ..schema.base import validated
from ..schema.family import Family, load_family
from ..schema.implementations import Shared, SharedFile
from ..schema.method import MethodEntry, method_from

if TYPE_CHECKING:
    from ..files.bibliography import Bibliography
    from ..schema.combinations import Combinations
    from ..schema.engines import Engine
    from ..schema.evidence import Run, Study
    from ..schema.gpus import Gpu
    from ..schema.library import Library
    from ..schema.results import Results
    from ..schema.support import Trainer
    from ..schema.taxonomy import Taxonomy
    from ..schema.unmerged import Unmerged

__all__ = ["M", "Merge", "MethodRecord", "ModelLike", "Records", "Shelf"]

T = TypeVar("T")
M = TypeVar("M", bound="MethodRecord")
ModelLike: TypeAlias = str | Path | Mapping[str, Any] | Backbone
"""A model: its id in the catalogue, the name of its checkpoint on the Hugging Face Hub, the path of a config.json (or
of its folder), the content of a config.json, or a backbone."""
ON_THE_HUB = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
"""Matches names on the Hub. A path of this form that does not exist needs a `./` in front."""
FOLDERS = ("taxonomy", "methods", "backbones")
EVIDENCE = "evidence"
"""The folder of published runs."""
STUDIES = "studies"
"""The folder of our own studies."""
Merge = Literal["exact", "none"]
PLANS = 512
"""The number of layouts on models that a method caches."""


class Shelf(Mapping[str, T], Generic[T]):
    """One folder of YAML files as a mapping from id to record, read on demand."""

    def __init__(self, kind: str, folder: Path, read: Callable[[Path], T]):
        self.kind, self.folder, self._read = kind, folder, read
        self.held: dict[str, T] = {}

    @cached_property
    def ids(self) -> dict[str, None]:
        """The ids, sorted, as the keys of a dictionary for fast lookup."""
        return dict.fromkeys(sorted(path.stem for path in self.folder.glob("*.yaml")))

    def path(self, key: str) -> Path:
        """Return the file of one record, which need not exist. Raises UnknownName for anything but a text."""
        if not isinstance(cast(object, key), str):
            raise UnknownName(self.kind, key, self.ids)
        return self.folder / f"{key}.yaml"

    def __getitem__(self, key: str) -> T:
        found = self.held.get(key) if isinstance(key, str) else None
        if found is None:
            if key not in self:
                raise UnknownName(self.kind, key, self.ids)
            found = self.held[key] = self._read(self.path(key))
        return found

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self.held or key in self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class MethodRecord:
    """One method: its entry, and its layout on any model."""

    def __init__(self, kb: Records[Any], entry: MethodEntry, document: Document):
        self.kb, self.entry, self.document = kb, entry, document
        self.id, self.name, self.year, self.category = entry.id, entry.name, entry.year, entry.category
        self._plans = Memo(PLANS)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The entry and all included entries, parents first. Raises UsageError for endless includes."""
        return flattened(self.entry, lambda method: self.kb[method].entry)

    @cached_property
    def merge(self) -> Merge:
        """`none` if a tensor is kept beside the weights at inference; otherwise `exact`: the change can be merged."""
        kept = any(tensor.served == "kept" for part in self.parts for tensor in part.entry.tensors.values())
        return "none" if kept else "exact"

    @property
    def evidence(self) -> list[Run]:
        """The published training runs of the method."""
        return [run for run in self.kb.evidence if run.method == self.id]

    def record(self) -> dict[str, Any]:
        """Return the entry as plain data, with derived values."""
        found: dict[str, Any] = self.entry.model_dump(mode="json", by_alias=True, exclude_none=True)
        found["properties"]["merge"] = self.merge
        return found

    def plan(
        self,
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
    ) -> Plan:
        """Lay the method out on a model; equal calls share one plan. Raises UsageError or ConfigError."""
        backbone = model if isinstance(model, str) and model in self.kb.models else self.kb.backbone(model)
        key = (backbone, _words("targets", targets), _words("target_modules", target_modules), task, num_labels)
        kept = isinstance(backbone, str) or backbone.file is not None or backbone is model
        kept = kept and isinstance(task, str | None) and type(num_labels) is int
        plan: Plan | None = self._plans.get(key) if kept else None
        if plan is None:
            if targets is not None and target_modules is not None:
                raise UsageError("give targets (roles) or target modules (suffixes), not both")
            inventory = self.kb.backbone(backbone).inventory(task, num_labels)
            suffixes = "all-linear" if key[2] == ("all-linear",) else key[2]
            plan = Plan(self.parts, inventory, key[1], suffixes)
            if kept:
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
        """Return the counts of the method on a model.

        model: an id of the catalogue, a path to a `config.json`, its content, or a Backbone. targets: roles such as
        `attn.q`. target_modules: module-name suffixes with peft's meaning, or "all-linear". task: one of
        `model.tasks` (with `num_labels`). dtype: of stored values. Other keywords are hyperparameters of the entry.
        Raises UsageError for invalid arguments, ConfigError for a config.json that cannot be counted.
        """
        plan = self.plan(model, targets=targets, target_modules=target_modules, task=task, num_labels=num_labels)
        return plan.cost(hyperparameters, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of the files. The other process reads its own copy."""
        return operator.getitem, (self.kb, self.id)

    def __repr__(self) -> str:
        return f"<Method {self.id}: {self.name} ({self.year})>"


class Records(Mapping[str, M], Generic[M]):
    """All methods by id, with the models, families, libraries, trainers, taxonomy and bibliography."""

    def __init__(self, root: str | Path, method: type[M]):
        if not isinstance(root, str | Path):
            raise UsageError(f"root: found {shown(root)}; expected the path of a folder")
        root = Path(root)
        missing = [name for name in FOLDERS if not os.path.isdir(root / name)]  # noqa: PTH112 (false for any bad path)
        if missing:
            raise DataError(
                [Problem(str(root), 0, "", f"no folder {missing[0]}/", "a folder with " + ", ".join(FOLDERS))]
            )
        self.root, self._class = root, method
        self.methods: Shelf[M] = Shelf("method", root / "methods", self._method)
        self.families: Shelf[Family] = Shelf("model_type", root / "backbones" / "families", self._family)
        self.models: Shelf[Backbone] = Shelf("model", root / "backbones" / "models", self._model)
        self.libraries: Shelf[Library] = Shelf("library", root / "taxonomy" / "libraries", self._library)
        self.trainers: Shelf[Trainer] = Shelf("trainer", root / "taxonomy" / "trainers", self._trainer)
        self.engines: Shelf[Engine] = Shelf("engine", root / "taxonomy" / "engines", self._engine)
        self.memo: dict[str, Any] = {}
        """A cache for the packages above: values computed once for these records, each under its own name."""
        self._by_checkpoint: dict[str, Backbone] = {}

    def _method(self, path: Path) -> M:
        document = load_yaml(path, self.shown(path))
        return self._class(self, method_from(document, path, lambda: self._shared), document)

    @cached_property
    def _shared(self) -> Shared:
        path = self.root / "taxonomy" / "deviations.yaml"
        return validated(SharedFile, load_yaml(path, self.shown(path))).root

    def _family(self, path: Path) -> Family:
        return load_family(path, self.shown(path))

    def _model(self, path: Path) -> Backbone:
        return load_model(path, families=self.families, name=self.shown(path))

    def _library(self, path: Path) -> Library:
        from ..schema.library import load_library

        return load_library(path, self.shown(path))

    def _trainer(self, path: Path) -> Trainer:
        from ..schema.support import load_trainer

        return load_trainer(path, self.shown(path))

    def _engine(self, path: Path) -> Engine:
        from ..schema.engines import load_engine

        return load_engine(path, self.shown(path))

    def shown(self, path: str | Path) -> str:
        """Return the name of a file in messages: relative to the root if it is below it."""
        if not isinstance(cast(object, path), str | Path):
            raise UsageError(f"path: found {shown(path)}; expected a path")
        path = Path(path)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def backbone(self, model: ModelLike) -> Backbone:
        """Return a model by catalogue id, name on the Hugging Face Hub, `config.json` (path or content), or itself.

        An existing path takes precedence over a name on the Hub. Hub names are case-insensitive. Raises UnknownName
        with near matches, UsageError for a name that several models have, ConfigError for an invalid `config.json`.
        """
        if isinstance(model, Backbone):
            return model
        if not isinstance(cast(object, model), str | Path | Mapping):
            expected = "an id of the catalogue, or the path or the content of a config.json"
            raise UsageError(f"model: found {shown(model)}; expected {expected}")
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
        """Return the model whose checkpoint has this name. Only files that contain the name are parsed."""
        wanted = name.lower()
        if wanted not in self._by_checkpoint:
            held = [self.models[key] for key in self.models if wanted in self._text(key)]
            found = [m for m in held if m.file is not None and (m.file.checkpoint or "").lower() == wanted]
            if len(found) > 1:
                ids = " and ".join(m.id for m in found)
                raise UsageError(f"model: {shown(name)} is the checkpoint of {ids}; name one of them by its id")
            if not found:
                return None
            self._by_checkpoint[wanted] = found[0]
        return self._by_checkpoint[wanted]

    def _text(self, model: str) -> str:
        path = self.models.path(model)
        return read_text(path, self.shown(path), MAX_BYTES).lower()

    def _checkpoints(self) -> Iterator[str]:
        """Yield the Hub names of all models that have one."""
        for model in self.models.values():
            if model.file is not None and model.file.checkpoint:
                yield model.file.checkpoint

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """Categories, facets, relation types, roles, surveys and saved queries."""
        from ..schema.taxonomy import Taxonomy

        return Taxonomy.read(self.root / "taxonomy", self.shown)

    @cached_property
    def references(self) -> Bibliography:
        """The bibliography."""
        from ..files.bibliography import Bibliography

        path = self.root / "taxonomy" / "references.bib"
        return Bibliography.read(path, self.shown(path))

    @cached_property
    def gpus(self) -> list[Gpu]:
        """The GPUs that a question may name; none without taxonomy/gpus.yaml."""
        from ..schema.gpus import GpuFile

        path = self.root / "taxonomy" / "gpus.yaml"
        return validated(GpuFile, load_yaml(path, self.shown(path))).gpus if path.is_file() else []

    @cached_property
    def combinations(self) -> Combinations | None:
        """The sums of adapters and conversions to LoRA; None without taxonomy/combinations.yaml."""
        from ..schema.combinations import Combinations

        path = self.root / "taxonomy" / "combinations.yaml"
        return validated(Combinations, load_yaml(path, self.shown(path))) if path.is_file() else None

    @cached_property
    def unmerged(self) -> Unmerged | None:
        """Launches of unmerged adapters, and published slowdowns; None without taxonomy/unmerged.yaml."""
        from ..schema.unmerged import Unmerged

        path = self.root / "taxonomy" / "unmerged.yaml"
        return validated(Unmerged, load_yaml(path, self.shown(path))) if path.is_file() else None

    @cached_property
    def studies(self) -> dict[str, Study]:
        """The published comparisons of methods by id."""
        from ..schema.evidence import load_studies

        folder = self.root / EVIDENCE
        return load_studies(folder, self.shown(folder))

    @cached_property
    def evidence(self) -> list[Run]:
        """Every published training run, study after study."""
        from ..schema.evidence import load_runs

        folder = self.root / EVIDENCE
        return [run for study in self.studies for run in load_runs(folder, self.shown(folder), study)]

    @cached_property
    def results(self) -> dict[str, Results]:
        """The results of our own studies by name: each finished arm with its interval and its group.

        They are apart from `evidence`, the runs that others published. Raises DataError for results of other runs.
        """
        from ..schema.results import load_results

        found = {}
        for path in sorted((self.root / STUDIES).glob("*.json")):
            runs = self.shown(path.with_suffix(".jsonl"))
            found[path.stem] = load_results(path, self.shown(path), runs)
        return found

    def __getitem__(self, key: str) -> M:
        return self.methods[key]

    def __contains__(self, key: object) -> bool:
        return key in self.methods

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def __repr__(self) -> str:
        counts = f"{len(self.methods)} methods, {len(self.models)} models, {len(self.families)} families"
        return f"<{type(self).__name__}: {counts}>"


def _exists(path: str) -> bool:
    """Return True if a path exists; False for an invalid path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _words(name: str, given: Any) -> tuple[str, ...] | None:
    """Return `"a, b"` or a sequence as a tuple of words; None stays None. Raises UsageError for anything else."""
    if given is None:
        return None
    words = tuple(w.strip() for w in given.split(",")) if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
        raise UsageError(f"{name}: found {shown(given)}; expected roles or suffixes as text")
    if not words or not all(words):
        raise UsageError("targets: found an empty name; expected roles or suffixes separated by commas")
    return tuple(words)
