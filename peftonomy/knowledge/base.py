"""The knowledge base for users: methods, models and families, and the queries on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..catalogue.records import MethodRecord, ModelLike, Records
from ..costs.cost import Cost
from ..costs.plan import Place, Plan
from ..costs.table import Table
from ..errors import UnknownName, UsageError, id_list, shown

if TYPE_CHECKING:
    from ..costs.sweep import Sweep
    from ..implementations.applied import Applied
    from ..libraries.adapter import Adapter
    from ..libraries.export import Configuration
    from ..libraries.trainers import Run
    from ..memory.answer import Training
    from ..memory.combining import Combination
    from ..memory.deepspeed import DeepSpeed
    from ..memory.fit import Fit
    from ..memory.setting import Memory
    from ..serving.merging import MergeCheck
    from .choose import Choice
    from .compare import Costs
    from .graph import Graph
    from .mechanism import Comparison, Nearest
    from .query import Selection
    from .serving import Serving

__all__ = ["KnowledgeBase", "Method", "MethodOn", "data_root", "load"]

WHERE = ("targets", "target_modules", "task", "num_labels")
"""Arguments that select where on a model a method acts; see `MethodRecord.cost`."""


def data_root() -> Path:
    """Return the folder with `methods/`, `taxonomy/` and the rest: in the installed package, else in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent


def load(root: str | Path | None = None) -> KnowledgeBase:
    """Return the knowledge base under `root`, or the packaged one.

    Files are read on first use, so this returns at once. Raises DataError if `root` is not such a folder.
    """
    return KnowledgeBase(root if root is not None else data_root())


class MethodOn:
    """A method on one model, at chosen targets. `Method.on` creates it.

    Equal calls share one layout, so further calls with other hyperparameters take microseconds.
    """

    def __init__(self, method: Method, model: ModelLike, where: Mapping[str, Any]):
        self.method, self.model, self._where = method, model, where

    @cached_property
    def plan(self) -> Plan:
        """The layout of the method on the model. Raises UsageError or ConfigError."""
        return self.method.plan(self.model, **self._where)

    @cached_property
    def training(self) -> Training:
        """The method and the model for a training step, by default for the model's own task. Raises UsageError."""
        from ..memory.answer import Training

        where, model = dict(self._where), self.method.kb.backbone(self.model)
        if where.get("task") is None:
            where["task"] = model.trained_task
        plan = self.method.plan(self.model if isinstance(self.model, str) else model, **where)
        return Training(self.method.kb, plan)

    def cost(self, *, dtype: str = "float32", **hyperparameters: Any) -> Cost:
        """Return the counts. dtype: of stored values. Raises UsageError."""
        return self.plan.cost(hyperparameters, dtype)

    def places(self, **hyperparameters: Any) -> list[Place]:
        """List every declared tensor at each of its modules, named as in the live model. Raises UsageError."""
        return self.plan.places(hyperparameters)

    def sweep(self, *, dtype: str = "float32", **hyperparameters: Any) -> Sweep:
        """Return the counts at many settings at once; hyperparameters may be arrays, which broadcast (needs numpy)."""
        from ..costs.sweep import sweep

        return sweep(self.plan, hyperparameters, dtype)

    def memory(
        self,
        *,
        batch: int,
        seq: int | None = None,
        dtype: str = "bfloat16",
        optimizer: str = "adamw",
        checkpointing: bool = False,
        attention: str = "sdpa",
        quantized: str | None = None,
        gpus: int | None = None,
        shard: str | None = None,
        reshard_after_forward: bool | None = None,
        reduce_dtype: str | None = None,
        quant_storage: str | None = None,
        **hyperparameters: Any,
    ) -> Memory:
        """Return the bytes that a training step needs, without running it.

        batch: sequences, each of `seq` tokens; or images, without `seq`. dtype: float32, bfloat16, float16 or mixed
        (trained tensors in float32, the rest and the activations in half precision). optimizer: see
        `memory.setting.OPTIMIZERS`. attention: sdpa or eager. quantized: nf4 or int8, the storage of the layers' frozen
        matrices.

        gpus: how many GPUs share the step; the answer is then a `RankMemory`, of the rank that takes the most, and the
        batch is one rank's. shard: fsdp (the default), ddp or zero1. For fsdp: reshard_after_forward (default True),
        reduce_dtype (float32 or bfloat16; by default that of the trained parameters) and, for nf4, quant_storage
        (bfloat16, or uint8, which is not sharded). Raises UsageError for an invalid setting, and if the entry or the
        family does not declare the tensors that training saves.
        """
        from ..memory.setting import Setting
        from ..memory.sharding import sharding

        setting = Setting(batch, seq, dtype, optimizer, checkpointing, attention, quantized)
        shared = sharding(
            gpus, shard, reshard_after_forward=reshard_after_forward, reduce_dtype=reduce_dtype,
            quant_storage=quant_storage,
        )  # fmt: skip
        return self.training.shared(shared).memory(hyperparameters, setting)

    def combination(self, *, dtype: str = "bfloat16", **hyperparameters: Any) -> Combination:
        """Return the inputs and the result of a combination, and the bytes that it takes, without running it.

        dtype: of the model, the inputs and the result. Raises UsageError for a method that combines nothing.
        """
        from ..memory.combining import combination

        return combination(self.method.kb, self.plan, hyperparameters, dtype)

    def fit(
        self,
        *,
        gpu: str | int,
        solve: str = "batch",
        batch: int | None = None,
        seq: int | None = None,
        dtype: str = "bfloat16",
        optimizer: str = "adamw",
        checkpointing: bool = False,
        attention: str = "sdpa",
        quantized: str | None = None,
        gpus: int | None = None,
        shard: str | None = None,
        reshard_after_forward: bool | None = None,
        reduce_dtype: str | None = None,
        quant_storage: str | None = None,
        **hyperparameters: Any,
    ) -> Fit:
        """Return the largest batch, sequence length or size hyperparameter whose training step fits on a GPU.

        gpu: bytes, a size such as "24GiB", or the name of a GPU such as "A100 80GB". solve: batch, seq, a
        hyperparameter of type int, or gpus: the smallest number of such GPUs. Other arguments as for `memory`; by
        default a batch has one sequence, and a sequence has 512 tokens. Raises UsageError.
        """
        from ..memory.fit import asked_gpus, begun, largest
        from ..memory.gpus import gpu_memory
        from ..memory.sharding import sharding

        setting = begun(
            solve, batch=batch, seq=seq, dtype=dtype, optimizer=optimizer, checkpointing=checkpointing,
            attention=attention, quantized=quantized,
        )  # fmt: skip
        size = gpu_memory(self.method.kb.gpus, gpu) if isinstance(gpu, str) else gpu
        shared = sharding(
            asked_gpus(gpus, solve), shard, reshard_after_forward=reshard_after_forward, reduce_dtype=reduce_dtype,
            quant_storage=quant_storage,
        )  # fmt: skip
        return largest(self.training.shared(shared), hyperparameters, setting, solve, size)

    def deepspeed(
        self, *, gpus: int, stage: int, reduce_bucket_size: int | None = None, **hyperparameters: Any
    ) -> DeepSpeed:
        """Return the model states and buffers of DeepSpeed's ZeRO-2 or ZeRO-3 on one GPU, beside its own estimate.

        They are from DeepSpeed's source and were not run, and there is no peak. stage: 2 or 3. reduce_bucket_size: as
        in DeepSpeed's configuration. Raises UsageError.
        """
        from ..memory.deepspeed import BUCKET, deepspeed

        bucket = BUCKET if reduce_bucket_size is None else reduce_bucket_size
        return deepspeed(self.training.plan, hyperparameters, gpus, stage, bucket)

    def serving(
        self,
        *,
        engine: str | None = None,
        max_loras: int = 1,
        max_rank: int | None = None,
        tp: int = 1,
        fully_sharded: bool = False,
        dtype: str | None = None,
        **hyperparameters: Any,
    ) -> Serving:
        """Return the bytes that a serving engine allocates for adapters on one GPU, and those in the key-value cache.

        engine: an id of `engines`; None: only the key-value cache. max_loras: the number of adapters. max_rank: the
        engine's largest rank; None: the smallest that holds the method's. tp: the GPUs of tensor parallelism.
        fully_sharded: the engine's option of that name. dtype: of the adapters and of the cache; None: the first that
        the engine accepts. Raises UsageError for a model whose layers in the engine are not described, and for options
        that the engine does not accept.
        """
        from .serving import serve

        kb = self.method.kb
        found = None if engine is None else kb.engines[engine]
        dtype = dtype or (found.dtypes[0] if found is not None else "bfloat16")
        ask = (max_loras, max_rank, tp, fully_sharded, dtype)
        return serve(self.method, self.plan, found, hyperparameters, *ask)

    @overload
    def export(self, *, to: Literal["peft", "adapters"] = "peft", **hyperparameters: Any) -> Configuration: ...

    @overload
    def export(self, *, to: str, **hyperparameters: Any) -> Configuration | Run: ...

    def export(self, *, to: str = "peft", **hyperparameters: Any) -> Configuration | Run:
        """Return a library's configuration of the method, or a trainer's.

        A library's has the call in Python, and the file that the library would save. A trainer's is a file in YAML.
        to: the id or the package of a library or a trainer. Raises UsageError if it cannot express the setting.
        """
        from ..libraries.export import export, library_called
        from ..libraries.trainers import write_run, writers

        kb = self.method.kb
        trainer = next((one for one in kb.trainers.values() if to in (one.id, one.package)), None)
        if trainer is None:
            library = library_called(kb.libraries, to, writers(kb.trainers))
            return export(self.method, self.plan, hyperparameters, library)
        return write_run(self.method, self.plan, hyperparameters, trainer)

    def __repr__(self) -> str:
        return f"<{self.method.name} on {self.plan.inventory.backbone.id}>"


class Method(MethodRecord):
    """One method: its entry, and the calculations on it.

    `on(model, ...)` fixes a model for several calculations. `cost`, `memory` and the others are shortcuts, and take the
    arguments of both.
    """

    kb: KnowledgeBase

    def on(
        self,
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
    ) -> MethodOn:
        """Return the method on a model; arguments as for `cost`. Nothing is computed yet."""
        where = {"targets": targets, "target_modules": target_modules, "task": task, "num_labels": num_labels}
        return MethodOn(self, model, where)

    def memory(self, model: ModelLike, **given: Any) -> Memory:
        """Shortcut for `on(model, ...).memory(...)`: the bytes that a training step needs."""
        where, others = _split(given)
        return self.on(model, **where).memory(**others)

    def combination(self, model: ModelLike, **given: Any) -> Combination:
        """Shortcut for `on(model, ...).combination(...)`: a combination's inputs, result and memory."""
        where, others = _split(given)
        return self.on(model, **where).combination(**others)

    def deepspeed(self, model: ModelLike, **given: Any) -> DeepSpeed:
        """Shortcut for `on(model, ...).deepspeed(...)`: the model states of DeepSpeed's ZeRO-2 or ZeRO-3."""
        where, others = _split(given)
        return self.on(model, **where).deepspeed(**others)

    def fit(self, model: ModelLike, **given: Any) -> Fit:
        """Shortcut for `on(model, ...).fit(...)`: the largest batch, length or size that fits on a GPU."""
        where, others = _split(given)
        return self.on(model, **where).fit(**others)

    def serving(self, model: ModelLike, **given: Any) -> Serving:
        """Shortcut for `on(model, ...).serving(...)`: the bytes of adapters in a serving engine."""
        where, others = _split(given)
        return self.on(model, **where).serving(**others)

    @overload
    def export(
        self, model: ModelLike, *, to: Literal["peft", "adapters"] = "peft", **given: Any
    ) -> Configuration: ...

    @overload
    def export(self, model: ModelLike, *, to: str, **given: Any) -> Configuration | Run: ...

    def export(self, model: ModelLike, *, to: str = "peft", **given: Any) -> Configuration | Run:
        """Shortcut for `on(model, ...).export(...)`: a library's or a trainer's configuration of the method."""
        where, others = _split(given)
        return self.on(model, **where).export(to=to, **others)

    def places(self, model: ModelLike, **given: Any) -> list[Place]:
        """Shortcut for `on(model, ...).places(...)`: every declared tensor at each of its modules."""
        where, others = _split(given)
        return self.on(model, **where).places(**others)

    def sweep(self, model: ModelLike | list[ModelLike] | tuple[ModelLike, ...], **given: Any) -> Sweep:
        """Shortcut for `on(model, ...).sweep(...)`: the counts at many settings at once.

        A list of several models adds a first axis. The result is masked at each setting that `cost` would refuse.
        Raises UsageError as `cost` does for the first bad setting.
        """
        where, others = _split(given)
        if not isinstance(model, list | tuple):
            return self.on(model, **where).sweep(**others)
        from ..costs.sweep import sweep_models

        backbones = [self.kb.backbone(one) for one in model]
        plans, refusals = list[Plan | None](), list[UsageError]()
        for one, backbone in zip(model, backbones, strict=True):
            try:
                plans.append(self.plan(one if isinstance(one, str) else backbone, **where))
            except UsageError as error:
                plans.append(None)
                refusals.append(error)
        if len(refusals) == len(plans):
            raise refusals[0] if refusals else UsageError("a sweep needs a model")
        dtype = others.pop("dtype", "float32")
        return sweep_models([(b.id, b.parameters) for b in backbones], plans, others, dtype)

    @property
    def learning_rates(self) -> Table:
        """The learning rates that sources print, published runs and our own studies used: a row for each source."""
        from .rates import rates

        return rates(self)

    def apply(
        self, model: Any, *, targets: str | list[str] | tuple[str, ...] | None = None, **hyperparameters: Any
    ) -> Applied:
        """Apply the reference implementation to a live `transformers` model, in place (needs the torch extra).

        The entry's defaults are filled in for this model. Domains, requirements and targets are checked as in `cost`.
        Returns a handle with `merge`, `save`, `load`, `remove`, the trained parameters and the predicted cost. Raises
        UsageError before any change to the model if the method does not fit it.
        """
        from ..implementations.applied import apply

        return apply(self, model, targets, hyperparameters)

    def _repr_html_(self) -> str:
        """Return the entry in short, for a notebook, which typesets the equation."""
        entry = self.entry
        head = f"<h3>{escape(entry.name)}: {escape(entry.full_name)} ({entry.year})</h3>"
        text = f"<p>{escape(entry.summary)}</p><p>$${escape(entry.update)}$$</p><p>{escape(entry.where)}</p>"
        settings = [
            {"hyperparameter": name, "type": spec.type, "default": str(spec.default), "meaning": spec.meaning}
            for name, spec in entry.hyperparameters.items()
        ]
        tensors = [
            {"tensor": name, "per": one.per, "shape": one.declared, "init": one.init, "served": one.served}
            for name, one in entry.tensors.items()
        ]
        return head + text + "".join(Table(rows)._repr_html_() for rows in (settings, tensors) if rows)


class KnowledgeBase(Records[Method]):
    """All methods by id, with the models on which they are counted and the taxonomy."""

    def __init__(self, root: str | Path):
        super().__init__(root, Method)

    def reread(self, methods: Iterable[str]) -> KnowledgeBase:
        """Return a knowledge base that reads these entries again and shares everything else with this one."""
        found, again = KnowledgeBase(self.root), set(id_list(methods))
        found.families, found.models = self.families, self.models
        found.libraries, found.trainers, found.engines = self.libraries, self.trainers, self.engines
        for name in ("taxonomy", "references", "studies", "evidence"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        kept = {key: m for key, m in self.methods.held.items() if key not in again}
        found.methods.held = {key: Method(found, m.entry, m.document) for key, m in kept.items()}
        return found

    def adapter(
        self,
        config: str | Path | Mapping[str, Any],
        model: ModelLike,
        *,
        library: str | None = None,
        method: str | None = None,
        task: str | None = None,
        num_labels: int = 2,
        dtype: str = "float32",
    ) -> Adapter:
        """Return the counts on a model for a library's saved configuration.

        config: the path of an `adapter_config.json`, its content, or a short name such as `lora[r=16]` of a library
        that has them. library: an id of `libraries`; if None, the configuration's keys decide. method: the method's
        id, if the configuration does not determine it (another optimiser, a quantised model). task, num_labels: the
        class of the model, if the configuration does not name it. dtype: of the values in the file.
        Raises ConfigError for a configuration that cannot be counted, UsageError for other invalid arguments.
        """
        from ..libraries.reading import read_adapter

        _expect_text(method=method, task=task, dtype=dtype)
        return read_adapter(
            self, config, model, library=library, method=method, task=task, num_labels=num_labels, dtype=dtype
        )

    @cached_property
    def graph(self) -> Graph:
        """The graph of categories, methods and papers with their relations."""
        from .graph import graph_of

        return graph_of(self)

    @cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Each method's values of the fields that a condition may name. Several values are a tuple."""
        from .query import facts_of

        return facts_of(self)

    @property
    def deviations(self) -> Table:
        """Every recorded difference between a library and a method, one per row, with effect and source."""
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

    @property
    def support(self) -> Table:
        """The methods in libraries and trainers: names, first releases, and support for kinds of base models.

        `base` has `full`, `partial` or `none` with a note and a source, or None if it is unknown.
        """
        from .support import records

        return Table(list(records(self)), caption="Methods in libraries and trainers")

    @property
    def serving(self) -> Table:
        """Each method at serving: mergeable, swappable, batched with others, and the answer of each engine.

        An engine's answer is taken, converted, refused, wrong (no error, but another function) or unknown.
        """
        from .serving import records

        return Table(list(records(self)), caption="Methods at serving")

    def costs(
        self,
        methods: Iterable[str],
        model: ModelLike,
        *,
        targets: str | list[str] | tuple[str, ...] | None = None,
        target_modules: str | list[str] | tuple[str, ...] | None = None,
        task: str | None = None,
        num_labels: int = 2,
        dtype: str = "float32",
        **hyperparameters: Any,
    ) -> Costs:
        """Return the costs of several methods on one model. A hyperparameter applies to every method that has it.

        methods: ids. Other arguments as for `Method.cost`. Raises UsageError for a hyperparameter that no method has.
        """
        from .compare import Costs, compared

        ids = id_list(methods)
        place = {
            "model": model, "targets": targets, "target_modules": target_modules, "task": task,
            "num_labels": num_labels,
        }  # fmt: skip
        return Costs(compared([self[one] for one in ids], place, hyperparameters, dtype))

    def query(self, where: str = "", *, category: str | None = None) -> Selection[Method]:
        """Return the methods for which a predicate holds, e.g. `merge == 'exact' and year >= 2023`."""
        from .query import select

        _expect_text(category=category)
        return select(self, where, category)

    def stored_list(self, name: str) -> Selection[Method]:
        """Return the methods of a stored list, e.g. `mergeable`. Raises UnknownName."""
        from .query import stored

        if not isinstance(name, str):
            raise UnknownName("list", name, self.taxonomy.lists)
        return stored(self, name)

    def _repr_html_(self) -> str:
        """Return the categories with their methods, for a notebook."""
        by_category: dict[str, list[str]] = {}
        for method in self.values():
            by_category.setdefault(method.category, []).append(method.id)
        rows = [
            {"category": key, "name": node.name, "methods": by_category[key]}
            for key, node in self.taxonomy.categories.items()
            if key in by_category
        ]
        return Table(rows, caption=f"{len(self)} methods, {len(self.models)} models")._repr_html_()

    def choose(
        self,
        model: ModelLike,
        *,
        gpu: str | int,
        seq: int | None = None,
        batch: int = 1,
        task: str | None = None,
        num_labels: int = 2,
        merge: bool = False,
        needs: Sequence[str] = (),
        library: str | None = None,
        trained: str | int | None = None,
        by: str = "libraries",
        anywhere: bool = False,
        n: int = 5,
        methods: Sequence[str] = (),
        dtype: str = "bfloat16",
        optimizer: str = "adamw",
        checkpointing: bool = False,
        attention: str = "sdpa",
        quantized: str | None = None,
        gpus: int | None = None,
        shard: str | None = None,
    ) -> Choice:
        """Return the best methods for a model, a GPU, a training step and some requirements, with settings that fit.

        gpu: bytes, a size such as "24GiB", or the name of a GPU. merge: only methods that merge
        exactly into the weights. needs: only methods of these saved queries, such as "side_by_side".
        library: the id of a library, or "any". trained: the most trained parameters, such as "10M" or "0.1%". by: the
        first criterion, one of `choose.PRIORITIES`. anywhere: do not rank methods in a library before all others. n:
        the number of methods. methods: count only these, and all of them. The other arguments are those of
        `MethodOn.memory`; a sequence has 512 tokens by default, and `gpus` are several such GPUs. A step that does not
        fit is relaxed, and the answer says how. Raises UsageError.
        """
        from ..memory.gpus import gpu_memory
        from ..memory.setting import Setting
        from ..memory.sharding import sharding
        from .choose import Wishes, choose

        size = gpu_memory(self.gpus, gpu) if isinstance(gpu, str) else gpu
        setting = Setting(batch, seq, dtype, optimizer, checkpointing, attention, quantized)
        wanted = tuple(id_list(needs, "needs"))
        wishes = Wishes(size, setting, merge, wanted, library, trained, by, anywhere, sharding(gpus, shard))
        return choose(self, model, wishes, n, task, num_labels, id_list(methods))

    def merge_check(
        self, adapter: str | Path, model: ModelLike, *, to: str, weights: str | Path | None = None
    ) -> MergeCheck:
        """Return what a merge into quantised weights leaves of a saved adapter's update (needs numpy).

        adapter: the folder with adapter_config.json and adapter_model.safetensors, or the latter file. to: nf4 or int8.
        weights: a safetensors file of the model, or a folder with such files; without it only the norms of the updates
        are computed, with the ratios below which an update is lost. Raises DataError for files that do not fit the
        model, UsageError for an adapter without a merge.
        """
        from ..serving.merging import merge_check

        return merge_check(self, adapter, self.backbone(model), to, weights)

    def compare(self, *methods: str) -> Comparison:
        """Return how two or more methods differ, with a sentence for each aspect. Raises UsageError."""
        from .mechanism import compare

        return compare(self, id_list(methods))

    def nearest(self, method: str | None = None, *, n: int = 5, **described: str | Sequence[str]) -> Nearest:
        """Return the methods nearest to a method, or to a mechanism that is described by aspects, best first.

        The aspects are the taxonomy's facets (`acts_on="weight"`) and those derived from entries (`freezes="random"`);
        `taxonomy.facets` and `taxonomy.derived` have their values. An aspect may have several values. Each result says
        how it differs. Raises UsageError.
        """
        from .mechanism import nearest

        return nearest(self, method, described, n)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of the files. The other process reads its own copy."""
        return load, (self.root,)


def _expect_text(**given: object) -> None:
    """Raise UsageError for an argument that is neither text nor None."""
    for name, value in given.items():
        if not isinstance(value, str | None):
            raise UsageError(f"{name}: found {shown(value)}; expected text")


def _split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split arguments into those of `Method.on` and the others."""
    where = {name: given[name] for name in WHERE if name in given}
    return where, {name: value for name, value in given.items() if name not in where}
